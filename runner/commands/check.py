"""`bridge-runner check`: runs every check on a config and prints a table, with a fix for each failure. Read-only."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from runner.commands.printed.json_output import print_json
from runner.commands.typed.hydra_command import hydra_command
from runner.commands.typed.verb import Verb
from runner.config import serialize
from runner.config.composing.composed import Config
from runner.config.enums import ChecksDepth, ChecksMode, EagerCheck, TimingMode
from runner.config.settings.run import Run
from runner.errors import LayerFaultError, visible
from runner.launch.application import Act, SweepRequest, SweepResult

if TYPE_CHECKING:
    from runner.config.composing.composed import Config
    from runner.experiment.draft import Draft
    from runner.records.record import Check, Record

EXIT_NO = 1


def check(request: SweepRequest, *, as_json: bool = False, traced: bool = False) -> SweepResult:
    """Prints the result of every check, or of the traced ones, for each program among the configs, once.

    Returns:
      0 if no check fails, each could be made and no error occurs, else 1.

    Raises:
      UserError: A config can't run.
    """
    from runner.checks.results import verdicts
    from runner.experiment import execute
    from runner.experiment.job import Job
    from runner.records.record import Verdict
    from runner.report import table
    from runner.report.terminal import Terminal
    from runner.sweep import validate

    try:
        identities, drafts = validate.validate(request.configs, request.invalid)
    except LayerFaultError as error:  # of the one config that there is
        found = dataclasses.asdict(verdicts.fail("complete", error.what, error.suggestion))
        settings = serialize.to_data(request.configs[0].run)
        as_data = {"layer": request.configs[0].run.layer.label, "settings": settings, "checks": [found], "error": None}
        if as_json:
            print_json([as_data], indent=1)
        else:
            print(visible(f"  complete  fail  {error}"))
        return SweepResult(EXIT_NO)
    terminal = Terminal()
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
            if not as_json:
                terminal.line("\n".join(table.check_lines(check, width=terminal.console.width)))

        if not as_json:
            terminal.line(_head(run, draft))
        record = execute.attempt(Job(run=run, identity=identity, compare_eager=not traced), draft, each=show).record
        checked.append(_as_data(config, record))
        for check in record.checks[len(shown) :]:
            show(check)
        if not as_json:
            terminal.line("\n".join(table.fixes_lines(record)))
    if as_json:
        print_json(checked, indent=1)
    said = [item for one in checked for item in one["checks"]]
    wrong = any(item["verdict"] == Verdict.fail.value or item["untested"] for item in said)
    wrong = wrong or any(one["error"] for one in checked)
    return SweepResult(EXIT_NO if wrong else 0)


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


def _as_data(config: Config, record: Record) -> dict[str, Any]:
    checks = [dataclasses.asdict(item) | {"verdict": item.verdict.value} for item in record.checks]
    error = record.error.message if record.error else None
    return {"layer": record.layer, "settings": serialize.to_data(config.run), "checks": checks, "error": error}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the flags of `check`; everything else goes to Hydra."""
    parser.add_argument("--json", action="store_true", help="programs with their checks, for scripts")
    parser.add_argument("--traced", action="store_true", help="only the checks of a sweep, which trace: in seconds")


def run(typed: argparse.Namespace) -> int:
    """Checks the configs of a command line and returns the exit code."""
    act = functools.partial(check, as_json=typed.json, traced=typed.traced)
    return hydra_command(typed.overrides, Act("check", act, timed=False))


VERB = Verb(
    name="check",
    summary="Is this layer safe inside Linen? Every check and, where one fails, what fixes it. Writes nothing.",
    usage="check KEY=VALUE … [-m] [--traced] [--json]",
    examples={
        "check layer=custom layer.target=my_pkg.MyLayer": "your layer",
        "check -m layer=mlp,conv input_shape=[4,8]": "each program of a sweep",
    },
    add_arguments=add_arguments,
    run=run,
    exit_codes={0: "no check fails", EXIT_NO: "a check fails or can't be made, or a layer fails"},
    takes_overrides=True,
)
