"""Reruns both sides of a comparison with interleaved calls, so that load affects both equally.

Both run in this process, or, where their sources are others than what is here, each in its own with the kept one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from runner.arrays import devices
from runner.arrays.mesh import fitted
from runner.bridge import rngs, user_source
from runner.config.settings.train import TrainSettings
from runner.errors import LayerError, UserError
from runner.experiment import program as programs
from runner.experiment.identity import identity_of
from runner.experiment.program import Program
from runner.experiment.saved_run import SavedRun
from runner.records import kept_sources
from runner.records.paths import RunFolder
from runner.records.timing import Samples
from runner.report.compare.pairing import Entry
from runner.report.compare.side_process import SideError, SideProcess, alternate
from runner.timing import clock

WARMUP = 5

# A round is represented by its fastest call: enough calls that at least one is likely undisturbed.
MIN_ROUND_S = 0.02
MIN_CALLS, MAX_CALLS = 10, 200

# Maximum number of runs per program whose variables are in memory at the same time.
MAX_RUNS = 8


@dataclass(frozen=True, kw_only=True)
class Lost:
    """Why a program can't be rerun on both sides as they were saved.

    Attributes:
      reason: As a clause.
    """

    reason: str


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
    runs: Sequence[tuple[RunFolder, RunFolder]], num_rounds: int, *, trust: bool = False
) -> tuple[Samples, Samples] | Lost:
    """Times blocking calls of apply, one per sample, alternating between the first and the second sides.

    Args:
      runs: The folders of the pairs of one program.
      num_rounds: Number of rounds; each has equally many calls of both sides.
      trust: Whether modules other than ours and flax's may be imported, and kept sources run.

    Returns:
      The samples of both sides, or why there are none.

    Raises:
      UserError: A layer can't be built here, or it imports untrusted modules.
    """
    chosen = runs[:MAX_RUNS]
    sides = [[SavedRun(folders[side]) for folders in chosen] for side in (0, 1)]
    for saved in (one for side in sides for one in side):
        saved.require_trust(trust=trust)
    firsts = [side[0] for side in sides]
    if all(map(_is_here, firsts)):
        calls = {name: _call(side) for name, side in zip("AB", sides, strict=True)}
        num_calls = max(map(_calls_a_round, calls.values()))
        samples = clock.measure_interleaved(calls, warmup=1, rounds=num_rounds * num_calls)
        return samples["A"], samples["B"]
    return _in_two_processes(sides, num_rounds, trust=trust)


def served(folders: Sequence[RunFolder], num_cpu_devices: int) -> tuple[Callable[[], Any], int]:
    """A call of the program of these runs, and how many of them a round takes; for a process of its own.

    Raises:
      UserError: It can't be built, or it is not the one that was saved.
    """
    devices.prepare_process(num_cpu_devices, "off")
    saved = [SavedRun(folder) for folder in folders]
    if not _is_here(saved[0]):
        raise UserError("with the kept source it is another program than when it was saved")
    call = _call(saved)
    return call, _calls_a_round(call)


def _in_two_processes(
    sides: Sequence[Sequence[SavedRun]], num_rounds: int, *, trust: bool
) -> tuple[Samples, Samples] | Lost:
    """Times both sides, each in a process of its own that runs its own source."""
    texts: list[Mapping[str, str] | None] = []
    for name, (saved, *_) in zip("AB", sides, strict=True):
        found = None if _is_here(saved) else _kept_texts(saved)
        if found is None and not _is_here(saved):
            if user_source.digests(saved.run) == saved.record.sources:
                return Lost(reason=f"{name} is another program here than when it was saved, by the same source")
            return Lost(reason=f"the source of {name} is neither kept nor the one that is here")
        if found and not trust:
            raise UserError(f"{saved.folder.path}: rerunning runs the source kept with it", "the same with --trust")
        texts.append(found)
    num_cpu_devices = max(saved.run.process.num_cpu_devices for side in sides for saved in side)
    try:
        with contextlib.ExitStack() as stack:
            processes = []
            for name, side, kept in zip("AB", sides, texts, strict=True):
                folders = [saved.folder for saved in side]
                processes.append(stack.enter_context(SideProcess(name, folders, kept, num_cpu_devices=num_cpu_devices)))
            first, second = alternate(processes, num_rounds)
    except SideError as error:
        return Lost(reason=str(error))
    return first, second


def _is_here(saved: SavedRun) -> bool:
    """Whether what was saved is the program that its config gives here, by the source of all that it comes from."""
    run, record = dataclasses.replace(saved.run, input=saved.input), saved.record
    try:
        # Variables that were given are part of the id, and may be gone; the source is what may have changed.
        identity = identity_of(dataclasses.replace(fitted(run), mesh=run.mesh, variables=None))
    except LayerError:
        if not record.sources:
            raise
        return False
    if record.sources or run.variables is not None:
        return user_source.digests(run) == record.sources and (
            run.variables is not None or identity.program_id == record.program_id
        )
    return identity.program_id == record.program_id


def _kept_texts(saved: SavedRun) -> Mapping[str, str] | None:
    """The sources kept with a run, by module; None if one is lost, or if they are what is here anyway."""
    if user_source.digests(saved.run) == saved.record.sources:
        return None
    texts = {module: kept_sources.read_resolved(saved.folder, one) for module, one in saved.record.sources.items()}
    found = {module: text for module, text in texts.items() if text is not None}
    return found if found and len(found) == len(texts) else None


def _call(saved: Sequence[SavedRun]) -> Callable[[], Any]:
    """A call of the program of runs that differ only in their seeds; each takes the next run's variables and input.

    Apply takes the same time on trained variables as on init's.
    """
    drafted = saved[0].draft(dataclasses.replace(saved[0].run, train=TrainSettings()))
    program = programs.compile_program(drafted)
    with jax.default_device(drafted.device):
        arguments = itertools.cycle([_arguments(program, one) for one in saved])
    return lambda: program.apply(*next(arguments))


def _arguments(program: Program, saved: SavedRun) -> tuple[Any, jax.Array, jax.Array]:
    device = program.draft.device
    key = jax.device_put(rngs.root_key(saved.run.seed), device)
    x = jax.device_put(saved.x, device)
    return jax.block_until_ready((program.init(key, x), key, x))


def _calls_a_round(call: Callable[[], Any]) -> int:
    taken = clock.measure(call, warmup=WARMUP, rounds=WARMUP)
    return min(MAX_CALLS, max(MIN_CALLS, math.ceil(MIN_ROUND_S / min(taken.durations_s))))
