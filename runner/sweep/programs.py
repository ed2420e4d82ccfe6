"""The compiled programs of a sweep: compiled ahead of their runs, and cached while they may be needed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from runner.config.settings.run import Run
from runner.experiment import execute
from runner.experiment.draft import Draft
from runner.experiment.program import Program
from runner.sweep.plan import Plan, Task
from runner.sweep.validate import ProgramKey

# Compiled programs that a search caches in case it needs one again: on a CPU each takes a few megabytes at most.
KEPT_PROGRAMS = 16

# Journal events for a program that is being compiled, and for one that is, or failed to.
COMPILING, COMPILED = "compile", "compiled"

# Takes the name of an event and the id of a program.
Mark = Callable[[str, str], None]


class Programs:
    """The compiled programs of one sweep, each compiled once."""

    def __init__(self) -> None:
        self._kept: dict[ProgramKey, Future[Program]] = {}

    def compile(
        self, pool: ThreadPoolExecutor, plan: Plan, wave: Sequence[Task], *, contended: bool, mark: Mark
    ) -> dict[ProgramKey, Future[Program]]:
        """Compiles the programs that `wave` needs.

        Args:
          pool: The compiling threads.
          plan: The plan whose drafts are compiled.
          wave: The runs that need them.
          contended: Whether other programs compile concurrently, which makes compile times unreliable.
          mark: Called before and after a program is compiled, in any thread.

        Returns:
          Futures of the programs, by key.
        """
        programs: dict[ProgramKey, Run] = {}
        for task in wave:
            programs.setdefault(task.program_key, task.job.run)
        for key, run in programs.items():
            if key not in self._kept:
                self._kept[key] = pool.submit(_prepare, plan.drafts[key], run, contended=contended, mark=mark)
        # A growing plan may return to a program; a complete one does not.
        self._forget(programs, KEPT_PROGRAMS if plan.study is not None else 0)
        return {key: self._kept[key] for key in programs}

    def missing(self, keys: Iterable[ProgramKey]) -> set[ProgramKey]:
        """Those of `keys` whose programs are still to compile."""
        return set(keys) - self._kept.keys()

    def _forget(self, wanted: Mapping[ProgramKey, object], num_kept: int) -> None:
        """Drops all programs but those in `wanted` and the newest `num_kept` others."""
        others = [key for key in self._kept if key not in wanted]
        for key in others[: max(len(others) - num_kept, 0)]:
            del self._kept[key]


def _prepare(draft: Draft, run: Run, *, contended: bool, mark: Mark) -> Program:
    mark(COMPILING, draft.program_id)
    try:
        return execute.prepare(draft, run, contended=contended)
    finally:
        mark(COMPILED, draft.program_id)


def compiled(future: Future[Program]) -> Program | Exception:
    """The compiled program, or the exception: the layer's own code may raise anything."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, Exception):
        return error
    raise error
