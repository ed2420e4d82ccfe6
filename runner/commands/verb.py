"""What a verb of the command line is made of: a parser, a help page, and the function that does it."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from runner.errors import UserError, nearest

PROGRAM = "bridge-runner"

# Each verb and its file; `import` is a word of Python.
VERBS = {
    "check": "check",
    "plan": "plan",
    "resume": "resume",
    "ls": "ls",
    "show": "show",
    "rerun": "rerun",
    "verify": "verify",
    "reload": "reload",
    "diff": "diff",
    "compare": "compare",
    "export": "export",
    "import": "import_variables",
    "sync": "sync",
    "results": "results",
    "report": "report",
    "help": "help",
    "completion": "completion",
}

# What every verb exits with.
OK, USAGE, INTERRUPTED = 0, 2, 130
COMMON_EXIT_CODES = {USAGE: "what was typed can't be done; nothing was run", INTERRUPTED: "interrupted"}

# What a path argument names: a sweep, a run, one of the two, or a folder of sweeps as well.
PathKind = Literal["sweep", "run", "either", "sweeps"]


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb of the command line.

    Attributes:
      name: As it is typed.
      summary: What it does, in one line.
      usage: How it is typed, without the program's name.
      examples: Command lines without the program's name, and what each is for.
      add_arguments: Defines its arguments and flags.
      run: Does it, given what was typed; gives the exit code.
      exit_codes: What it exits with beside `COMMON_EXIT_CODES`.
      paths: Which arguments and flags are paths of sweeps and runs.
      takes_overrides: Whether everything but its own flags goes to Hydra.
    """

    name: str
    summary: str
    usage: str
    examples: Mapping[str, str]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    exit_codes: Mapping[int, str] = field(default_factory=lambda: {OK: "done"})
    paths: Mapping[str, PathKind] = field(default_factory=dict)
    takes_overrides: bool = False

    def parser(self) -> VerbParser:
        """The verb's parser, with its help page."""
        return VerbParser(self)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """What `words`, typed with the verb, say.

        Raises:
          UserError: They say nothing that the verb takes.
        """
        parser = self.parser()
        if not self.takes_overrides:
            return parser.parse_args(list(words))
        flags = [word for word in words if word in parser.value_counts()]
        typed = parser.parse_args(flags)
        typed.overrides = [word for word in words if word not in flags]
        return typed

    def help(self) -> str:
        """The verb's help page."""
        return self.parser().format_help()

    @property
    def usage_line(self) -> str:
        """How it is typed."""
        return f"{PROGRAM} {self.usage}"


class VerbParser(argparse.ArgumentParser):
    """argparse with the help page of a verb, and with our errors.

    Args:
      verb: The verb.
    """

    def __init__(self, verb: Verb) -> None:
        width = max(map(len, verb.examples), default=0)
        examples = [f"  {PROGRAM} {typed:<{width}}  {why}".rstrip() for typed, why in verb.examples.items()]
        codes = sorted({**verb.exit_codes, **COMMON_EXIT_CODES}.items())
        super().__init__(
            prog=verb.name,
            usage=_escaped(verb.usage_line),
            description=_escaped("\n".join([verb.summary, "", "examples:", *examples])),
            epilog=_escaped("\n".join(["exit codes:", *(f"  {code:<4} {why}" for code, why in codes)])),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self._verb = verb
        self._value_counts: dict[str, int] = {}
        verb.add_arguments(self)
        self.add_argument("-h", "--help", action="help", help="this page")

    def value_counts(self) -> dict[str, int]:
        """The verb's visible flags, each with the number of values that it takes."""
        actions = [action for action in self._actions if action.help != argparse.SUPPRESS]
        return {flag: int(action.nargs != 0) for action in actions for flag in action.option_strings}

    def values(self, flag: str) -> list[str]:
        """The values that a flag takes, where they are few: of `--as nnx|linen` the two."""
        metavars = [str(action.metavar or "") for action in self._actions if flag in action.option_strings]
        return [value for metavar in metavars if "|" in metavar for value in metavar.split("|")]

    def positionals(self) -> list[str]:
        """Names of the verb's arguments, as often as each is taken."""
        actions = [action for action in self._actions if not action.option_strings]
        return [action.dest for action in actions for _ in range(action.nargs if isinstance(action.nargs, int) else 1)]

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Parses, and says so where several paths were typed in the place of one.

        Raises:
          UserError: What was typed is nothing that the verb takes.
        """
        typed, left = self.parse_known_args(args, namespace)
        paths = [word for word in left if not word.startswith("-")]
        if left and paths == left and self._verb.paths:
            wanted = [str(vars(typed)[dest]) for dest in self.positionals()]
            num = len(wanted) + len(left)
            self._refuse(f"{num} paths were typed and {len(wanted)} wanted", f"{self._verb.name} {' '.join(wanted)}")
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return typed

    def error(self, message: str) -> NoReturn:
        """Raises what was wrong, with the verb's usage."""
        self._refuse(message, self._verb.usage)

    def _refuse(self, message: str, suggestion: str) -> NoReturn:
        raise UserError(f"{self._verb.name}: {message}", f"{PROGRAM} {suggestion}")


def load(name: str) -> Verb:
    """The verb that is typed as `name`.

    Raises:
      UserError: There is none.
    """
    if name not in VERBS:
        close = nearest(name, VERBS)
        known = f"{name}: no such command; there are {', '.join(VERBS)}"
        raise UserError(known, f"{PROGRAM} help {close}" if close else f"{PROGRAM} help")
    verb: Verb = importlib.import_module(f"runner.commands.{VERBS[name]}").VERB
    return verb


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
