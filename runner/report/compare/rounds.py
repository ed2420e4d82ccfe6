"""Both sides of a comparison done anew in this process and called in turns, so that load hits both alike."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from runner.arrays import devices
from runner.bridge import wrap
from runner.config.settings import Run
from runner.config.train_settings import TrainSettings
from runner.experiment import program as programs
from runner.experiment import saved_run
from runner.experiment.program import Program
from runner.records import store
from runner.records.paths import RunFolder
from runner.records.timing import Samples
from runner.report.compare.pairing import Entry
from runner.timing import clock

WARMUP = 5

# The fastest call of a round stands for it: so many calls that one of them is likely to be disturbed by nothing.
MIN_ROUND_S = 0.02
MIN_CALLS, MAX_CALLS = 10, 200

# Runs of a program whose variables are held at the same time.
MAX_RUNS = 8


@dataclass(frozen=True, kw_only=True)
class Part:
    """One side of a program, ready to be called.

    Attributes:
      call: One apply; every call takes the next run's variables and input.
      program_id: Names what was compiled here.
      changed: Whether that is another program than the saved one.
    """

    call: Callable[[], Any]
    program_id: str
    changed: bool


def prepare_process(entries: Iterable[Entry]) -> None:
    """Makes JAX ready for the runs of both sides: as many CPU devices as any of them had.

    Raises:
      UserError: JAX already runs otherwise, or a device is not here.
    """
    wanted = [entry.settings for entry in entries]
    devices.prepare_process(max(int(one.get("num_cpu_devices", 1)) for one in wanted), "off")
    # Rebuilding a run would take the CPU instead.
    for device in dict.fromkeys(one["device"] for one in wanted):
        devices.find_device(device)


def measure(
    label: str,
    runs: Sequence[tuple[RunFolder, RunFolder]],
    num_rounds: int,
    say: Callable[[str], None],
    *,
    trust: bool = False,
) -> tuple[Samples, Samples]:
    """One blocking call of apply a sample: of the first sides and of the second, taken in turns.

    Args:
      label: What the program is called.
      runs: The folders of its pairs.
      num_rounds: Rounds; each has as many calls of either side.
      say: Takes a line on what was built otherwise than it was saved.
      trust: Whether modules that are neither ours nor flax's may be imported.

    Raises:
      UserError: A layer can't be built here, or it imports what is not trusted.
    """
    chosen = runs[:MAX_RUNS]
    parts = [_part([folders[side] for folders in chosen], trust=trust) for side in (0, 1)]
    for name, part in zip("AB", parts, strict=True):
        if part.changed:
            say(f"{label}: the layer's source is another one than when {name} was saved; the one that is here is timed")
    if parts[0].program_id == parts[1].program_id:
        say(f"{label}: both sides are the same program here, compared with itself")
    calls = {name: part.call for name, part in zip("AB", parts, strict=True)}
    num_calls = max(map(_calls_a_round, calls.values()))
    samples = clock.measure_interleaved(calls, warmup=1, rounds=num_rounds * num_calls)
    return samples["A"], samples["B"]


def _part(folders: Sequence[RunFolder], *, trust: bool) -> Part:
    """The program of runs that differ in their seeds, and a call of it."""
    records = [store.read_record(folder) for folder in folders]
    runs = [saved_run.config_of(record) for record in records]
    for run in runs:
        saved_run.require_trust(run, trust=trust)
    # An apply takes as long on trained variables as on init's.
    drafted = saved_run.rebuild(folders[0], dataclasses.replace(runs[0], train=TrainSettings()))
    program = programs.compile_program(drafted)
    with jax.default_device(drafted.device):
        arguments = itertools.cycle([_arguments(program, *one) for one in zip(folders, runs, strict=True)])
    saved = records[0].program_id
    plain = runs[0].variables is None and not runs[0].train.steps
    return Part(
        call=lambda: program.apply(*next(arguments)),
        program_id=drafted.program_id,
        changed=plain and saved != drafted.program_id,
    )


def _arguments(program: Program, folder: RunFolder, run: Run) -> tuple[Any, jax.Array, jax.Array]:
    device = program.draft.device
    key = jax.device_put(wrap.root_key(run.seed), device)
    x = jax.device_put(saved_run.make_input(folder, run), device)
    return jax.block_until_ready((program.init(key, x), key, x))


def _calls_a_round(call: Callable[[], Any]) -> int:
    taken = clock.measure(call, warmup=WARMUP, rounds=WARMUP)
    return min(MAX_CALLS, max(MIN_CALLS, math.ceil(MIN_ROUND_S / min(taken.durations_s))))
