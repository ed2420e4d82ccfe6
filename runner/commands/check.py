"""`bridge-runner check`: runs every check on a config and prints a table, with a fix for each failure. Read-only."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runner.commands.printed.check_outputs import CheckOutputs, from_environment
from runner.commands.printed.json_output import only_json
from runner.commands.typed.hydra_command import hydra_command
from runner.commands.typed.verb import Verb
from runner.config import serialize
from runner.config.enums import ChecksDepth, ChecksMode, EagerCheck, TimingMode
from runner.config.settings.run import Run
from runner.errors import LayerFaultError, UserError, visible
from runner.launch.application import Act, SweepRequest, SweepResult

if TYPE_CHECKING:
    from runner.config.composing.composed import Config
    from runner.experiment.draft import Draft
    from runner.records.record import Check
    from runner.report.checked.program import CheckedProgram

EXIT_NO = 1


def check(request: SweepRequest, *, outputs: CheckOutputs | None = None, traced: bool = False) -> SweepResult:
    """Prints the result of every check, or of the traced ones, for each program among the configs, once.

    Args:
      request: The configs.
      outputs: Where the results go besides, or instead of, the table.
      traced: Whether only the checks run that trace.

    Returns:
      0 if no check fails, each could be made and no error occurs, else 1.

    Raises:
      UserError: A config can't run.
      StorageError: An output can't be written.
    """
    from runner.checks.results import verdicts
    from runner.experiment import execute
    from runner.experiment.job import Job
    from runner.records.record import Verdict
    from runner.report import table
    from runner.report.terminal import Terminal
    from runner.sweep import validate

    outputs = CheckOutputs() if outputs is None else outputs
    try:
        identities, drafts = validate.validate(request.configs, request.invalid)
    except LayerFaultError as error:  # of the one config that there is
        found = verdicts.fail("complete", error.what, error.suggestion)
        if outputs.table:
            print(visible(f"  complete  fail  {error}"))
        (config,) = request.configs
        program = _program(config, config.run.layer.label, [found], None)
        outputs.write([program], [_as_data(config, program)])
        return SweepResult(EXIT_NO)
    terminal = Terminal()
    programs: list[CheckedProgram] = []
    checked: list[dict[str, Any]] = []
    seen = set()
    for config, identity in zip(request.configs, identities, strict=True):
        if identity.program_id in seen:
            continue
        seen.add(identity.program_id)
        run, draft = _asked(config.run, traced=traced), drafts[identity.program_id, config.run.device]
        shown: list[Check] = []

        def show(check: Check, shown: list[Check] = shown) -> None:
            shown.append(check)
            if outputs.table:
                terminal.line("\n".join(table.check_lines(check, width=terminal.console.width)))

        if outputs.table:
            terminal.line(_head(run, draft))
        record = execute.attempt(Job(run=run, identity=identity, compare_eager=not traced), draft, each=show).record
        for check in record.checks[len(shown) :]:
            show(check)
        if outputs.table:
            terminal.line("\n".join(table.fixes_lines(record)))
        error_text = record.error.message if record.error else None
        programs.append(_program(config, _head(run, draft), record.checks, error_text))
        checked.append(_as_data(config, programs[-1]))
    outputs.write(programs, checked)
    return SweepResult(EXIT_NO if any(program.verdict is Verdict.fail for program in programs) else 0)


def _program(config: Config, head: str, checks: Sequence[Check], error: str | None) -> CheckedProgram:
    from runner.bridge.source_places import source_places
    from runner.report.checked.program import CheckedProgram

    return CheckedProgram(
        label=config.run.layer.label,
        head=head.partition("\n")[0],
        typed=config.overrides,
        checks=checks,
        error=error,
        places=source_places(config.run),
    )


def _head(run: Run, draft: Draft) -> str:
    """What is checked, and the arguments of the layer that were filled in."""
    from runner.experiment.sized import added

    more = "".join(f", {name} {shape}" for name, shape in run.input.more.items())
    method = f".{run.layer.nnx_method}" if run.layer.nnx_method else ""
    head = f"{run.layer.label}{method} on x {draft.x.dtype}{run.input_shape}{more}, {run.device}"
    head += f", as {run.pipeline.name} calls it" if run.pipeline.name else ""
    return head + "".join(f"\n  layer.kwargs.{key}={value} filled in" for key, value in added(run).items())


def _asked(run: Run, *, traced: bool) -> Run:
    depth, eager = (ChecksDepth.traced, EagerCheck.never) if traced else (ChecksDepth.full, EagerCheck.program)
    checks = dataclasses.replace(run.checks, mode=ChecksMode.warn, depth=depth, eager=eager)
    return dataclasses.replace(run, checks=checks, timing=dataclasses.replace(run.timing, mode=TimingMode.off))


def _as_data(config: Config, program: CheckedProgram) -> dict[str, Any]:
    checks = [dataclasses.asdict(item) | {"verdict": item.verdict.value} for item in program.checks]
    settings = serialize.to_data(config.run)
    return {"layer": program.label, "settings": settings, "checks": checks, "error": program.error}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the flags of `check`; everything else goes to Hydra."""
    parser.add_argument("--json", action="store_true", help="programs with their checks, for scripts")
    parser.add_argument("--markdown", action="store_true", help="tables and fixes, for a comment on a pull request")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML there too, a test case for each check")
    parser.add_argument("--github", action="store_true", help="annotate lines too, and add to the job's summary")
    parser.add_argument("--traced", action="store_true", help="only the checks of a sweep, which trace: in seconds")


def run(typed: argparse.Namespace) -> int:
    """Checks the configs of a command line and returns the exit code."""
    _require_no_file(typed)
    with only_json() if typed.markdown and not typed.json else contextlib.nullcontext():
        try:
            outputs = from_environment(
                junit=typed.junit, to_github=typed.github, as_json=typed.json, as_markdown=typed.markdown
            )
            act = functools.partial(check, outputs=outputs, traced=typed.traced)
            return hydra_command(typed.overrides, Act("check", act, timed=False))
        except UserError as error:
            if typed.github:
                from runner.report.checked import github

                print(github.command("error", str(error), title=github.TITLE), flush=True)
            raise


def _require_no_file(typed: argparse.Namespace) -> None:
    """Checks that no flag that prints was given a file."""
    flag = "--json" if typed.json else "--markdown" if typed.markdown else None
    file = next((word for word in typed.overrides if re.fullmatch(r"[\w./-]+\.(json|md|markdown|txt)", word)), None)
    if flag is not None and file is not None:
        others = [shlex.quote(word) for word in typed.overrides if word != file]
        again = " ".join(["bridge-runner check", flag, *others, ">", file])
        raise UserError(f"{file}: {flag} takes no file: it prints", again)


VERB = Verb(
    name="check",
    summary="Is this layer safe inside Linen? Every check and, where one fails, what fixes it. Writes nothing.",
    usage="check KEY=VALUE … [-m] [--traced] [--json | --markdown] [--junit FILE] [--github]",
    examples={
        "check layer=custom layer.target=my_pkg.MyLayer": "your layer",
        "check -m layer=mlp,conv input_shape=[4,8]": "each program of a sweep",
        "check --github --junit checks.xml layer=custom layer.target=my_pkg.MyLayer": "in CI",
    },
    add_arguments=add_arguments,
    run=run,
    exit_codes={0: "no check fails", EXIT_NO: "a check fails or can't be made, or a layer fails"},
    takes_overrides=True,
)
