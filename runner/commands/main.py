"""The command: what is typed, to a call and an exit code. What is set for the whole process is set here."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from runner.commands.hydra_command import MULTIRUN, hydra_command, make_importable
from runner.config import schema
from runner.errors import USER_ERROR_PREFIX, UserError, nearest, quoted
from runner.launch import process
from runner.records import paths

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and gives its exit code.

    Args:
      argv: Words after the program's name; by default what was typed.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    process.quiet_libraries()
    try:
        if words == ["--version"]:
            import importlib.metadata

            print(f"bridge-runner {importlib.metadata.version('bridge-runner')}")
            return 0
        if words in (["--help"], ["-h"]):
            print(help_text(), end="")
            return 0
        if words and words[0] in VERBS:
            return VERBS[words[0]](words[1:])
        if words and re.fullmatch(r"[a-z]+", words[0]):
            close = nearest(words[0], [*VERBS, *schema.layer_names()])
            known = f"{words[0]}: no such command; there are {', '.join(VERBS)}, or KEY=VALUE for a run"
            raise UserError(known, f"bridge-runner {close if close in VERBS else f'layer={close}'}" if close else None)
        return hydra_command(words)
    except UserError as error:
        return fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe has had enough: no traceback, and none from the flush at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return fail(f"{str(error.filename)[:80]}…: no file has so long a name.", EXIT_USAGE)


def entry() -> None:
    """The console script."""
    try:
        code = main()
    except BaseException as error:
        process.leave(1, error)
        raise
    process.leave(code)
    # Else Python would look through all objects of JAX once more: 0.7 s of a second's exit.
    gc.freeze()
    # An impatient Ctrl-C more, while Python goes down, changes nothing of what was done and said.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def help_text() -> str:
    """What can be typed, from the files of conf/ and without composing them: Hydra takes half a second."""
    conf = schema.config_dir()
    groups = {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in sorted(conf.iterdir())}
    lines = [f"  {name:<11} {', '.join(choices)}" for name, choices in groups.items() if choices]
    keys = (conf / "config.yaml").read_text().partition("# The four axes")[2].partition("\nhydra:")[0]
    return HELP.format(groups="\n".join(lines), keys=f"# The four axes{keys}".strip())


HELP = """\
Runs an NNX layer inside Linen, over seeds, shapes, features and devices.

  bridge-runner layer=mlp seed=1 features=16                                  one run
  bridge-runner -m seed=0,1,2 'input_shape=[4],[16]' features=8,32            a sweep: every combination
  bridge-runner -m seed=0,1 features=8,16 'zip=[[seed,features]]'             values that go together
  bridge-runner layer=custom layer.target=my_pkg.MyLayer layer.kwargs.hidden=64   your layer
  bridge-runner num_cpu_devices=8 'mesh={{data:2,model:4}}' 'input_shape=[4,8]'  one run over several devices
  bridge-runner -m +experiment=width                                          a named experiment
  bridge-runner -m seed=0,1,2 hydra/launcher=ray       on an engine: joblib, submitit_local, submitit_slurm, ray
  bridge-runner -m hydra/sweeper=optuna objective=output_norm 'seed=range(0,99)'  a search for the best run

  bridge-runner check KEY=…       is this layer safe inside Linen? every claim, and what mends a no (--json)
  bridge-runner plan KEY=…        what a sweep would do; runs nothing
  bridge-runner resume SWEEP      what is missing or failed
  bridge-runner ls [SWEEP]        sweeps, or the runs of one (--json); --watch follows it, --by KEY puts seeds together
  bridge-runner show RUN          one run (--json)
  bridge-runner rerun RUN         a saved run again: the same bits?
  bridge-runner verify RUN|SWEEP  from the folder alone: files, leaves, output still what they were? (--device gpu)
  bridge-runner reload RUN        load it (--as nnx, --dtype, --only), apply it, say how exactly it agrees
  bridge-runner diff OLD NEW      two trees of variables: what moved, which name= mends it, and the proof
  bridge-runner compare A B       two sweeps or runs: same results? slower? one verdict (--rerun 30 settles it)
  bridge-runner export RUN --to … its variables as nnx, linen or safetensors keep them
  bridge-runner import PATH       … and back to variables (--like RUN where another program saved them)
  bridge-runner sync SWEEP        its W&B runs to the server, each once; --watch as they come
  bridge-runner results SWEEP     results.parquet, results.csv and checks.md from the records
  bridge-runner report SWEEP      report.html: the sweep as one page, without a network; --watch serves it as it grows

Groups, each a folder of choices (group=choice; experiment and debug with a plus):
{groups}

Keys, each with its value when nothing is typed (--cfg job shows a group's keys too):

{keys}

Hydra's own flags (--cfg, --config-dir, --shell-completion, …): bridge-runner --hydra-help
"""


def plan(words: Sequence[str]) -> int:
    """What a sweep would do; runs and writes nothing."""
    from runner.commands import plan as commands_plan

    return hydra_command(["-m", *(word for word in words if word not in MULTIRUN)], commands_plan.PLAN)


def check(words: Sequence[str]) -> int:
    """Is this layer safe inside Linen? Every claim about one config, or with `-m` about each program of a sweep."""
    from runner.commands import check as commands_check

    return hydra_command([word for word in words if word != "--json"], commands_check.act(as_json="--json" in words))


def resume(words: Sequence[str]) -> int:
    """Runs what is missing or failed of a sweep, by the command that is kept in its plan.

    Raises:
      UserError: The folder is no sweep, or what is typed beside it contradicts its plan.
    """
    from runner.records import store

    folder, *more = _arguments("resume", words, at_least=1)
    sweep = paths.SweepFolder(Path(folder))
    origin = store.read_plan(sweep)["origin"]
    command = list(origin["command"])
    if origin["cwd"] not in sys.path:
        sys.path.append(origin["cwd"])
    key = "hydra.sweep.dir" if MULTIRUN & set(command) else "hydra.run.dir"
    # Of a search that was resumed before, the command has one already.
    command = [word for word in command if not word.startswith(f"{key}=")]
    return hydra_command([*command, *more, f"{key}={quoted(str(sweep.path.absolute()))}"])


def ls(words: Sequence[str]) -> int:
    """The sweeps of a folder, or the runs of a sweep.

    Raises:
      UserError: There is no such sweep, or its runs have no such key.
    """
    from runner.commands import ls as commands_ls

    parser = _Parser("ls")
    parser.add_argument("path", type=Path, nargs="?")
    parser.add_argument("--by", default="")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--watch", action="store_true")
    typed = parser.parse_args(list(words))
    if typed.watch and typed.path is None:
        raise UserError("ls: --watch follows one sweep", USAGE["ls"])
    by = [key for key in typed.by.split(",") if key]
    return commands_ls.ls(typed.path, as_json=typed.json, watch=typed.watch, by=by)


def show(words: Sequence[str]) -> int:
    """One run.

    Raises:
      UserError: There is no such run.
    """
    from runner.commands import ls as commands_ls

    arguments = _arguments("show", [word for word in words if word != "--json"], at_least=1, at_most=1)
    return commands_ls.show(Path(arguments[0]), as_json="--json" in words)


def results(words: Sequence[str]) -> int:
    """Writes `results.parquet`, `results.csv` and `checks.md` of a sweep from the records that are there.

    Raises:
      UserError: There is no such sweep, or a record is damaged.
    """
    from runner.commands import ls as commands_ls

    (path,) = _arguments("results", words, at_least=1, at_most=1)
    return commands_ls.results(Path(path))


def sync(words: Sequence[str]) -> int:
    """Sends the W&B runs of a sweep to a server; 1 if it does not have all of them.

    Raises:
      UserError: There is no such sweep, no API key is configured, or no server answers.
    """
    parser = _Parser("sync")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--watch", action="store_true")
    # One run, by its files, while it grows.
    parser.add_argument("--live", action="store_true")
    # The sweep that started this process, which ends with it.
    parser.add_argument("--parent", type=int)
    typed = parser.parse_args(list(words))
    from runner.commands import sync as commands_sync

    if typed.live:
        return commands_sync.follow(typed.sweep, parent=typed.parent)
    return commands_sync.watch(typed.sweep, parent=typed.parent) if typed.watch else commands_sync.sync(typed.sweep)


def rerun(words: Sequence[str]) -> int:
    """Does a saved run again from its record alone; 4 if the bits are others.

    Raises:
      UserError: There is no such run, it imports what is not trusted, or its layer can't be built here.
    """
    make_importable()
    from runner.commands import rerun as commands_rerun

    (path,) = _arguments("rerun", [word for word in words if word != "--trust"], at_least=1, at_most=1)
    return commands_rerun.rerun(Path(path), trust="--trust" in words)


def verify(words: Sequence[str]) -> int:
    """Whether a run, or every run of a sweep, is what it was; 4 if not.

    Raises:
      UserError: There is no such run or device, or it imports what is not trusted.
    """
    make_importable()
    from runner.commands import verify as commands_verify

    parser = _Parser("verify")
    parser.add_argument("path", type=Path)
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--no-code", action="store_true")
    parser.add_argument("--device")
    typed = parser.parse_args(list(words))
    return commands_verify.verify(typed.path, trust=typed.trust, code=not typed.no_code, device=typed.device)


def reload(words: Sequence[str]) -> int:
    """Loads a run as asked, applies it to the recorded input, and says how exactly the output agrees.

    Raises:
      UserError: There is no such run, it is damaged or not trusted, or it can't be loaded so.
    """
    make_importable()
    parser = _Parser("reload")
    parser.add_argument("run", type=Path)
    parser.add_argument("--as", dest="as_", choices=("linen", "nnx"), default="linen")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--only", type=lambda text: text.split(","))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trust", action="store_true")
    typed = vars(parser.parse_args(list(words)))
    from runner.commands import reload as commands_reload

    return commands_reload.reload(typed.pop("run"), out=typed.pop("out"), **typed)


def diff(words: Sequence[str]) -> int:
    """How the variables of two models or checkpoints differ, which names put it right, and the proof; 1 if they do.

    Raises:
      UserError: A side that is nothing that can be compared.
    """
    import ast

    make_importable()
    parser = _Parser("diff")
    parser.add_argument("sides", nargs=2)
    parser.add_argument("--input", type=ast.literal_eval)
    parser.add_argument("--input-dtype", default="float32")
    parser.add_argument("--call", action="append", default=[])
    parser.add_argument("--apply", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trust", action="store_true")
    typed = parser.parse_args(list(words))
    from runner.commands import diff as commands_diff

    pairs = [text.partition("=") for text in typed.call]
    try:
        call = {key: ast.literal_eval(value) for key, _, value in pairs}
        shape = None if typed.input is None else tuple(int(axis) for axis in typed.input)
    except (ValueError, SyntaxError, TypeError) as error:
        raise UserError("diff: --input takes a shape and --call NAME=LITERAL", USAGE["diff"]) from error
    options = commands_diff.Options(
        input_shape=shape,
        input_dtype=typed.input_dtype,
        call=call,
        apply=typed.apply,
        as_json=typed.json,
        trust=typed.trust,
    )
    old, new = typed.sides
    return commands_diff.diff(old, new, options)


def compare(words: Sequence[str]) -> int:
    """How a second sweep or run compares with a first; 3 if it is slower, 4 if results differ, 5 if they can't be.

    Raises:
      UserError: A side is neither a sweep nor a run, it imports what is not trusted, or can't be done anew here.
    """
    make_importable()
    parser = _Parser("compare")
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--rerun", type=int)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--html", type=Path)
    parser.add_argument("--trust", action="store_true")
    typed = parser.parse_args(list(words))
    from runner.commands import compare as commands_compare

    options = commands_compare.Options(
        force=typed.force, rerun=typed.rerun, as_json=typed.json, page=typed.html, trust=typed.trust
    )
    return commands_compare.compare(typed.a, typed.b, options)


def export(words: Sequence[str]) -> int:
    """Writes the variables of a run as others keep them: natively, as the Linen twin, or for people outside JAX.

    Raises:
      UserError: There is no such run, it has no such form, or the target is there.
    """
    make_importable()
    parser = _Parser("export")
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trust", action="store_true")
    typed = parser.parse_args(list(words))
    from runner.commands import export as commands_export

    return commands_export.export(typed.run, typed.to, out=typed.out, trust=typed.trust)


def import_variables(words: Sequence[str]) -> int:
    """Writes what was exported, or saved natively, as a checkpoint of Linen variables.

    Raises:
      UserError: It can't be read, or has other leaves than are wanted.
    """
    parser = _Parser("import")
    parser.add_argument("path", type=Path)
    parser.add_argument("--like", type=Path)
    parser.add_argument("--out", type=Path)
    typed = parser.parse_args(list(words))
    from runner.commands import export as commands_export

    return commands_export.import_variables(typed.path, like=typed.like, out=typed.out)


def report(words: Sequence[str]) -> int:
    """Writes the report of a sweep, or serves it while the sweep runs.

    Raises:
      UserError: There is no such sweep, or a record is damaged.
    """
    from runner.commands.report import watch, write

    (path,) = _arguments("report", [word for word in words if word != "--watch"], at_least=1, at_most=1)
    return watch(Path(path)) if "--watch" in words else write(Path(path))


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "plan": plan,
    "check": check,
    "resume": resume,
    "ls": ls,
    "show": show,
    "rerun": rerun,
    "verify": verify,
    "reload": reload,
    "diff": diff,
    "compare": compare,
    "export": export,
    "import": import_variables,
    "sync": sync,
    "results": results,
    "report": report,
}

USAGE = {
    "resume": "bridge-runner resume outputs/SWEEP [retry=all]",
    "ls": "bridge-runner ls [outputs/SWEEP] [--by features] [--json] [--watch]",
    "show": "bridge-runner show outputs/SWEEP/runs/RUN [--json]",
    "rerun": "bridge-runner rerun outputs/SWEEP/runs/RUN [--trust]",
    "verify": "bridge-runner verify outputs/SWEEP[/runs/RUN] [--trust] [--no-code] [--device gpu]",
    "reload": "bridge-runner reload outputs/SWEEP/runs/RUN [--as nnx|linen] [--device cpu:1] [--dtype bfloat16] "
    "[--only params,batch_stats/mean] [--out FOLDER] [--trust]",
    "diff": "bridge-runner diff OLD NEW [--input '[2,8]'] [--input-dtype int32] [--call a=1] [--apply] [--json] "
    "[--trust]",
    "compare": "bridge-runner compare outputs/A outputs/B [--rerun 30 [--trust]] [--force] [--json] [--html FILE]",
    "export": "bridge-runner export outputs/SWEEP/runs/RUN --to nnx|linen|safetensors [--out PATH] [--trust]",
    "import": "bridge-runner import PATH [--like outputs/SWEEP/runs/RUN] [--out FOLDER]",
    "sync": "bridge-runner sync outputs/SWEEP [--watch]",
    "results": "bridge-runner results outputs/SWEEP",
    "report": "bridge-runner report outputs/SWEEP [--watch]",
}


class _Parser(argparse.ArgumentParser):
    """argparse that answers as every verb does.

    Args:
      verb: The verb.
    """

    def __init__(self, verb: str) -> None:
        super().__init__(prog=verb, add_help=False)
        self._verb = verb

    def error(self, message: str) -> NoReturn:
        """Raises what was wrong, with the verb's usage."""
        raise UserError(f"{self._verb}: {message}", USAGE[self._verb])


def _arguments(verb: str, words: Sequence[str], *, at_least: int = 0, at_most: int = 99) -> list[str]:
    flags = [word for word in words if word.startswith("-")]
    if flags or not at_least <= len(words) <= at_most:
        got = " ".join(words) or "nothing"
        raise UserError(f"{verb}: got {got}", USAGE[verb])
    return list(words)


def fail(text: str, code: int) -> int:
    """Says why on standard error; gives `code`."""
    print(f"{USER_ERROR_PREFIX}{text}", file=sys.stderr)
    return code
