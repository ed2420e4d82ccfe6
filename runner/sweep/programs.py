"""The compiled programs of a sweep: compiled ahead of their runs, and kept while they may be wanted again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from runner.experiment import execute
from runner.experiment.program import Program
from runner.sweep.plan import Plan, Task
from runner.sweep.validate import ProgramKey

# Compiled programs that a search keeps, should it ask for one again: on a CPU each takes a few megabytes at most.
KEPT_PROGRAMS = 16


class Programs:
    """The compiled programs of one sweep, each compiled once."""

    def __init__(self) -> None:
        self._kept: dict[ProgramKey, Future[Program]] = {}

    def compile(
        self, pool: ThreadPoolExecutor, plan: Plan, wave: Sequence[Task], *, contended: bool
    ) -> dict[ProgramKey, Future[Program]]:
        """Compiles what `wave` needs.

        Args:
          pool: Threads that compile.
          plan: Whose drafts are compiled.
          wave: The runs that need them.
          contended: Whether others compile at the same time, so that no compile time is to be believed.

        Returns:
          The programs, once they are compiled, by their keys.
        """
        programs = {task.program_key: task.job.run for task in wave}
        for key, run in programs.items():
            if key not in self._kept:
                self._kept[key] = pool.submit(execute.prepare, plan.drafts[key], run, contended=contended)
        # A plan that grows comes back to a program; one that is whole does not.
        self._forget(programs, KEPT_PROGRAMS if plan.study is not None else 0)
        return {key: self._kept[key] for key in programs}

    def _forget(self, wanted: Mapping[ProgramKey, object], num_kept: int) -> None:
        """Keeps the programs that are wanted now, and the newest `num_kept` others."""
        others = [key for key in self._kept if key not in wanted]
        for key in others[: max(len(others) - num_kept, 0)]:
            del self._kept[key]


def compiled(future: Future[Program]) -> Program | Exception:
    """What was compiled, or why not: the layer's own code may raise anything."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, Exception):
        return error
    raise error
