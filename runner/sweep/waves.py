"""A sweep cut into waves, whose programs are compiled together, and these into bursts, which are written together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from runner.experiment.program import Program
from runner.sweep.plan import Task
from runner.sweep.validate import ProgramKey

# Executed but not yet written runs are lost by a crash and done again: so many at most, and so many bytes of arrays.
BURST_RUNS = 32
BURST_BYTES = 256 * 2**20


def waves(tasks: Sequence[Task], num_programs: int) -> Iterator[list[Task]]:
    """`tasks`, already ordered by program, in groups of at most `num_programs` programs."""
    by_program = [list(group) for _, group in itertools.groupby(tasks, key=lambda task: task.program_key)]
    for start in range(0, len(by_program), num_programs):
        yield [task for group in by_program[start : start + num_programs] for task in group]


def bursts(wave: Sequence[Task], compiled: Mapping[ProgramKey, Program | Exception]) -> Iterator[list[Task]]:
    """`wave` cut so that what is executed and not yet written stays small."""
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
