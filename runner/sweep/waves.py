"""Splits a sweep into waves, whose programs are compiled together, and these into bursts, written together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from runner.experiment.program import Program
from runner.sweep.plan import Task
from runner.sweep.validate import ProgramKey

# A crash loses runs that are executed but not yet written, and they are rerun: hence at most this many runs and bytes.
BURST_RUNS = 32
BURST_BYTES = 256 * 2**20


def waves(tasks: Sequence[Task], num_programs: int) -> Iterator[list[Task]]:
    """Splits `tasks`, already ordered by program, into groups of at most `num_programs` programs."""
    by_program = [list(group) for _, group in itertools.groupby(tasks, key=lambda task: task.program_key)]
    for start in range(0, len(by_program), num_programs):
        yield [task for group in by_program[start : start + num_programs] for task in group]


def bursts(wave: Sequence[Task], compiled: Mapping[ProgramKey, Program | Exception]) -> Iterator[list[Task]]:
    """Splits `wave` so that little is executed and not yet written at any time."""
    burst: list[Task] = []
    held_bytes = 0
    for task in wave:
        program = compiled[task.program_key]
        num_bytes = 0 if isinstance(program, Exception) else program.result_bytes
        if burst and (len(burst) >= BURST_RUNS or held_bytes + num_bytes > BURST_BYTES):
            yield burst
            burst, held_bytes = [], 0
        burst.append(task)
        held_bytes += num_bytes
    if burst:
        yield burst
