"""Reruns both sides of a comparison in this process, with interleaved calls, so that load affects both equally."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from runner.arrays import devices
from runner.bridge import rngs
from runner.config.settings.train import TrainSettings
from runner.experiment import program as programs
from runner.experiment.program import Program
from runner.experiment.saved_run import SavedRun
from runner.records.paths import RunFolder
from runner.records.timing import Samples
from runner.report.compare.pairing import Entry
from runner.timing import clock

WARMUP = 5

# A round is represented by its fastest call: enough calls that at least one is likely undisturbed.
MIN_ROUND_S = 0.02
MIN_CALLS, MAX_CALLS = 10, 200

# Maximum number of runs per program whose variables are in memory at the same time.
MAX_RUNS = 8


@dataclass(frozen=True, kw_only=True)
class Part:
    """One side of a program, ready to be called.

    Attributes:
      call: One apply; every call uses the next run's variables and input.
      program_id: The id of the program compiled here.
      changed: Whether that differs from the saved program.
    """

    call: Callable[[], Any]
    program_id: str
    changed: bool


def prepare_process(entries: Iterable[Entry]) -> None:
    """Sets up JAX for the runs of both sides, with as many CPU devices as any of them had.

    Raises:
      UserError: JAX is already initialised differently, or a device does not exist here.
    """
    wanted = [entry.settings for entry in entries]
    devices.prepare_process(max(int(one.get("process.num_cpu_devices", 1)) for one in wanted), "off")
    # Rebuilding a run would otherwise fall back to the CPU.
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
    """Times blocking calls of apply, one per sample, alternating between the first and the second sides.

    Args:
      label: The program's name.
      runs: The folders of its pairs.
      num_rounds: Number of rounds; each has equally many calls of both sides.
      say: Called with a line on anything that was built differently from how it was saved.
      trust: Whether modules other than ours and flax's may be imported.

    Raises:
      UserError: A layer can't be built here, or it imports untrusted modules.
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
    """The program of runs that differ only in their seeds, and a call of it."""
    saved = [SavedRun(folder) for folder in folders]
    first, *_ = [one.run for one in saved]
    for one in saved:
        one.require_trust(trust=trust)
    # Apply takes the same time on trained variables as on init's.
    drafted = saved[0].draft(dataclasses.replace(first, train=TrainSettings()))
    program = programs.compile_program(drafted)
    with jax.default_device(drafted.device):
        arguments = itertools.cycle([_arguments(program, one) for one in saved])
    plain = first.variables is None and not first.train.steps
    return Part(
        call=lambda: program.apply(*next(arguments)),
        program_id=drafted.program_id,
        changed=plain and saved[0].record.program_id != drafted.program_id,
    )


def _arguments(program: Program, saved: SavedRun) -> tuple[Any, jax.Array, jax.Array]:
    device = program.draft.device
    key = jax.device_put(rngs.root_key(saved.run.seed), device)
    x = jax.device_put(saved.x, device)
    return jax.block_until_ready((program.init(key, x), key, x))


def _calls_a_round(call: Callable[[], Any]) -> int:
    taken = clock.measure(call, warmup=WARMUP, rounds=WARMUP)
    return min(MAX_CALLS, max(MIN_CALLS, math.ceil(MIN_ROUND_S / min(taken.durations_s))))
