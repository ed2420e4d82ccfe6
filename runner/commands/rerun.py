"""`bridge-runner rerun`: reruns a saved run from its record alone: are the bits the same?"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runner.commands.typed.hydra_command import make_importable
from runner.commands.typed.verb import Verb
from runner.errors import UserError

if TYPE_CHECKING:
    from runner.config.settings.run import Run
    from runner.records.record import Record

EXIT_DIFFERENT = 4

# A rerun that takes longer than this, in seconds, is announced; so are more steps of which no time is known.
LONG_S = 10.0
FEW_STEPS = 1000
# `timedelta` holds no more than about this many seconds.
MAX_S = 10**13

OTHER_SOURCE = (
    "the layer's source, the input file or a variable of the environment is another one than when the run was saved"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `rerun`."""
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--trust", action="store_true", help="import modules that are neither ours nor flax's")


def run(typed: argparse.Namespace) -> int:
    """Reruns a saved run; 4 if the bits differ.

    Raises:
      UserError: The run does not exist, imports untrusted modules, or its layer can't be built here.
    """
    make_importable(own=typed.trust)
    return rerun(typed.run, trust=typed.trust)


def rerun(path: Path, *, trust: bool = False) -> int:
    """Reruns the run at `path` and prints whether the bits are the same; writes nothing.

    Args:
      path: The run's folder.
      trust: Whether modules other than ours and Flax's may be imported.

    Returns:
      0 if the bits are the same, else 4.

    Raises:
      UserError: The run does not exist, imports untrusted modules, or its layer can't be built or run here.
    """
    from runner.arrays import closeness
    from runner.config.composing.composed import Config
    from runner.config.enums import TimingMode
    from runner.config.settings.execution import TimingSettings
    from runner.experiment import execute
    from runner.experiment.identity import identity_of
    from runner.experiment.job import Job
    from runner.experiment.memory import NoRoomError
    from runner.experiment.saved_run import SavedRun
    from runner.launch import process
    from runner.records import find, store
    from runner.records.record import FailureKind
    from runner.report.terminal import Terminal
    from runner.sweep.initial_variables import draft_from, read_initial_variables

    before = SavedRun(find.find_run(path))
    folder, saved = before.folder, before.record
    before.require_trust(trust=trust)
    # A compilation cache is code too, and the record may name any folder as one.
    run = before.in_one_process
    uncached = dataclasses.replace(run.process, compilation_cache="off")
    _require_bounded(uncached.num_cpu_devices)
    # No time is compared, and the record may ask for any number of samples.
    run = dataclasses.replace(run, process=uncached, input=before.input, timing=TimingSettings(mode=TimingMode.off))
    terminal = Terminal()
    if what := how_long(saved, run):
        terminal.line(f"{folder.path.name}: {what}; Ctrl-C stops it")
    process.prepare_process([Config(run=run)])
    given = read_initial_variables(run.variables)
    identity = identity_of(run, given.digest_for(run) if given else None)
    job = Job(run=run, identity=identity, num=saved.num, sweep=saved.sweep, compare_eager=False)
    result = execute.attempt(job, draft_from(run, identity, given))
    now = result.record.error
    if now is not None and now.kind is FailureKind.out_of_memory and saved.error is None:
        raise NoRoomError(folder, now.message)
    different = _differences(saved, result.record)
    if result.output and saved.output and not different:
        kept = store.read_output(folder, saved)
        different = [
            f"output {name or 'y'}: {what}" for name, what in closeness.differences(kept, result.output).items()
        ]
    for line in different:
        terminal.line(f"  {line}")
    if identity.result_id != saved.result_id:
        terminal.warned(OTHER_SOURCE)
    same = "failed again" if saved.error else "the same bits"
    verdict = "other bits" if different else same
    num = len(saved.variables) + len(saved.output)
    terminal.line(f"{folder.path.name}: {verdict} ({num} arrays compared)")
    return EXIT_DIFFERENT if different else 0


def _require_bounded(num_cpu_devices: int) -> None:
    """Refuses a record that would split the CPU without bounds.

    Raises:
      UserError: It wants more devices than a record gets.
    """
    from runner.arrays.devices import MAX_CPU_DEVICES

    if num_cpu_devices > MAX_CPU_DEVICES:
        raise UserError(f"this run wants {num_cpu_devices} CPU devices, and a record gets {MAX_CPU_DEVICES} at most")


def how_long(saved: Record, run: Run) -> str | None:
    """What a rerun that takes long would do, and how long by the times of its record; None if it is short."""
    from runner.report import table

    before = saved.train
    num_steps = run.train.steps - (before.first_step if before else 0)
    if num_steps <= 0:
        return None
    steps_s = before.steps_s[1:] or before.steps_s if before else []
    if not steps_s:
        return f"trains {num_steps} steps, and its record has no time of one" if num_steps > FEW_STEPS else None
    step_s = statistics.median(steps_s)
    if num_steps * step_s < LONG_S:
        return None
    takes = datetime.timedelta(seconds=min(round(num_steps * step_s), MAX_S))
    return f"trains {num_steps} steps, about {takes} at the {table.duration(step_s)} a step of its record"


def _differences(saved: Record, again: Record) -> list[str]:
    """Where two records of the same run disagree: status, variables, output."""
    if saved.status is not again.status:
        error = f": {again.error.message}" if again.error else ""
        return [f"status: {saved.status.value} when saved, {again.status.value} now{error}"]
    variables = _differing(
        "variable",
        {leaf.name: leaf.digest for leaf in saved.variables},
        {leaf.name: leaf.digest for leaf in again.variables},
    )
    outputs = _differing(
        "output",
        {array.path or "y": array.digest for array in saved.output},
        {array.path or "y": array.digest for array in again.output},
    )
    return [*variables, *outputs]


def _differing(kind: str, kept: Mapping[str, str], made: Mapping[str, str]) -> list[str]:
    """Names whose digests differ."""
    names = [name for name in sorted(kept.keys() | made.keys()) if kept.get(name) != made.get(name)]
    both = kept.keys() & made.keys()
    return [f"{kind} {name}: {'other bits' if name in both else 'in one of them only'}" for name in names]


VERB = Verb(
    name="rerun",
    summary="Does a saved run again, from its record alone: the same bits? Writes nothing.",
    usage="rerun outputs/SWEEP/runs/RUN [--trust]",
    examples={"rerun outputs/mlp-1a2b3c4d/0": "run 0 of a sweep"},
    add_arguments=add_arguments,
    run=run,
    exit_codes={0: "the same bits", EXIT_DIFFERENT: "other bits"},
    paths={"run": "run"},
)
