"""`bridge-runner resume`: runs what is missing or failed in a sweep, with the command stored in its plan."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path

from runner.commands.typed.hydra_command import MULTIRUN, hydra_command
from runner.commands.typed.verb import Verb
from runner.errors import quoted
from runner.launch.application import RUN, Act, SweepRequest, SweepResult, run_sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `resume`."""
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="what else holds, e.g. failure.retry=all"
    )
    parser.add_argument("--trust", action="store_true", help="import modules that are neither ours nor flax's")
    parser.add_argument("--verify", action="store_true", help="also redo finished runs whose files are damaged")


def run(typed: argparse.Namespace) -> int:
    """Runs what is missing or failed in a sweep.

    Raises:
      UserError: The folder is not a sweep, its plan runs code that needs trust, or other arguments contradict its plan.
    """
    from runner.commands.saved import replayed
    from runner.records import store
    from runner.records.paths import SweepFolder

    sweep = SweepFolder(typed.sweep)
    origin = store.read_plan(sweep).get("origin")
    origin = origin if isinstance(origin, dict) else {}
    command = replayed.command(origin, trust=typed.trust)
    cwd = origin.get("cwd")
    if typed.trust and isinstance(cwd, str) and cwd not in sys.path:
        sys.path.append(cwd)
    key = "hydra.sweep.dir" if MULTIRUN & set(command) else "hydra.run.dir"
    words = [*command, *typed.overrides, f"{key}={quoted(str(_named_folder(sweep.path.absolute())))}"]
    act = RESUME_VERIFIED if typed.verify else RUN
    return hydra_command(words, act) if typed.trust else hydra_command(words, act, replayed.require_trusted)


def _named_folder(sweep: Path) -> Path:
    """The folder that a command names for `sweep` to be in: of another sweeper's batch, the one with all batches."""
    is_batch = re.fullmatch(r"batch-\d+", sweep.name) and (sweep.parent / "multirun.yaml").is_file()
    return sweep.parent if is_batch else sweep


def _run_verified(request: SweepRequest) -> SweepResult:
    return run_sweep(dataclasses.replace(request, verify=True))


RESUME_VERIFIED = Act("resume", _run_verified, runs=True)

VERB = Verb(
    name="resume",
    summary="Runs what is missing or failed of a sweep.",
    usage="resume outputs/SWEEP [failure.retry=all] [--verify] [--trust]",
    examples={
        "resume outputs/mlp-1a2b3c4d": "go on after a crash or Ctrl-C",
        "resume outputs/mlp-1a2b3c4d failure.retry=all": "every run again",
        "resume outputs/mlp-1a2b3c4d --verify": "and what `verify` finds damaged",
    },
    add_arguments=add_arguments,
    run=run,
    exit_codes={0: "every run is done", 1: "a run failed"},
    paths={"sweep": "sweep"},
)
