"""Defines a verb of the command line: a parser, a help page, and the function that implements it."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from runner.errors import UserError, nearest

PROGRAM = "bridge-runner"

# Each verb and its file; `import` is a Python keyword.
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

# Exit codes of every verb.
OK, USAGE, INTERRUPTED = 0, 2, 130
COMMON_EXIT_CODES = {USAGE: "what was typed can't be done; nothing was run", INTERRUPTED: "interrupted"}

# What a path argument names: a sweep, a run, either, or also a folder of sweeps.
PathKind = Literal["sweep", "run", "either", "sweeps"]


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb of the command line.

    Attributes:
      name: Its name on the command line.
      summary: What it does, in one line.
      usage: Its usage line, without the program name.
      examples: Command lines without the program name, and what each is for.
      add_arguments: Defines its arguments and flags.
      run: Runs it with the parsed arguments; returns the exit code.
      exit_codes: Its exit codes in addition to `COMMON_EXIT_CODES`.
      paths: Which arguments and flags are paths to sweeps or runs.
      takes_overrides: Whether everything but its own flags goes to Hydra.
      settings: A group of the config whose `KEY=VALUE` it takes besides its arguments, as `typed.settings`.
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
    settings: str | None = None

    def parser(self) -> VerbParser:
        """The verb's parser, with its help page."""
        return VerbParser(self)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parses `words`, the arguments of the verb.

        Raises:
          UserError: The verb doesn't accept them.
        """
        parser = self.parser()
        if not self.takes_overrides:
            settings = [word for word in words if self._is_setting(word)]
            typed = parser.parse_args(parser.flags_last([word for word in words if word not in settings]))
            typed.settings = settings
            return typed
        flags, overrides = parser.split(words)
        typed = parser.parse_args(flags)
        typed.overrides = overrides
        return typed

    def _is_setting(self, word: str) -> bool:
        key, equals, _ = word.partition("=")
        return self.settings is not None and bool(equals) and key.split(".")[0] == self.settings

    def help(self) -> str:
        """The verb's help page."""
        return self.parser().format_help()

    @property
    def usage_line(self) -> str:
        """Its usage line."""
        return f"{PROGRAM} {self.usage}"


class VerbParser(argparse.ArgumentParser):
    """An argparse parser with a verb's help page and our errors.

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
        """The verb's visible flags, each with its number of values."""
        actions = [action for action in self._actions if action.help != argparse.SUPPRESS]
        return {flag: int(action.nargs != 0) for action in actions for flag in action.option_strings}

    def values(self, flag: str) -> list[str]:
        """The allowed values of a flag, if they are listed: for `--as nnx|linen` these two."""
        metavars = [str(action.metavar or "") for action in self._actions if flag in action.option_strings]
        return [value for metavar in metavars if "|" in metavar for value in metavar.split("|")]

    def positionals(self) -> list[str]:
        """Names of the verb's positional arguments, each repeated as often as it is accepted."""
        actions = [action for action in self._actions if not action.option_strings]
        return [action.dest for action in actions for _ in range(action.nargs if isinstance(action.nargs, int) else 1)]

    def flags_last(self, words: Sequence[str]) -> list[str]:
        """`words` with the flags after the positional arguments: argparse takes no flag within a list of these."""
        if not any(action.nargs == "*" for action in self._actions):
            return list(words)
        counts = self.value_counts()
        left = list(words)
        positional: list[str] = []
        flags: list[str] = []
        while left:
            word = left.pop(0)
            if word not in counts:
                (flags if word.startswith("-") else positional).append(word)
                continue
            flags += [word, *left[: counts[word]]]
            del left[: counts[word]]
        return positional + flags

    def split(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """`words` as the verb's own flags, with their values (`--flag VALUE`, `--flag=VALUE`), and all others."""
        counts = self.value_counts()
        left = list(words)
        flags: list[str] = []
        others: list[str] = []
        while left:
            word = left.pop(0)
            flag, equals, _ = word.partition("=")
            if flag not in counts or (equals and not counts[flag]):
                others.append(word)
                continue
            flags.append(word)
            if counts[flag] and not equals:
                flags += left[: counts[flag]]
                del left[: counts[flag]]
        return flags, others

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Parses, with an error of its own for several paths in place of one.

        Raises:
          UserError: The verb doesn't accept these arguments.
        """
        typed, left = self.parse_known_args(args, namespace)
        paths = [word for word in left if not word.startswith("-")]
        if left and paths == left and self._verb.paths:
            wanted = [word for dest in dict.fromkeys(self.positionals()) for word in _as_words(vars(typed)[dest])]
            num = len(wanted) + len(left)
            self._refuse(f"{num} paths were typed and {len(wanted)} wanted", f"{self._verb.name} {' '.join(wanted)}")
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return typed

    def error(self, message: str) -> NoReturn:
        """Raises the error, with the verb's usage."""
        self._refuse(message, self._verb.usage)

    def _refuse(self, message: str, suggestion: str) -> NoReturn:
        raise UserError(f"{self._verb.name}: {message}", f"{PROGRAM} {suggestion}")


def load(name: str) -> Verb:
    """The verb called `name`.

    Raises:
      UserError: It does not exist.
    """
    if name not in VERBS:
        close = nearest(name, VERBS)
        known = f"{name}: no such command; there are {', '.join(VERBS)}"
        raise UserError(known, f"{PROGRAM} help {close}" if close else f"{PROGRAM} help")
    verb: Verb = importlib.import_module(f"runner.commands.{VERBS[name]}").VERB
    return verb


def _as_words(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
