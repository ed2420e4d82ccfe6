"""Schedules the compiling, executing and writing of a sweep, so that no other work of ours runs while one is timed."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from runner.arrays import checkpoint
from runner.config.enums import TimingMode
from runner.errors import StorageError
from runner.experiment import cross_checks, execute, failures
from runner.experiment.job import Result
from runner.experiment.program import Program
from runner.experiment.train.curve import Stopped
from runner.sweep.ending import Ending
from runner.sweep.plan import Plan, Task
from runner.sweep.programs import COMPILED, Programs, compiled
from runner.sweep.run_executor import RunExecutor
from runner.sweep.validate import ProgramKey
from runner.sweep.waves import BURST_RUNS, bursts, waves
from runner.sweep.writing.run_writer import RunWriter
from runner.timing import machine

# A run this long, in seconds, is written before the next one is executed: a crash would lose it, and whoever follows
# the sweep is waiting for it. The comparison with the eager path, once per sweep, takes two of them.
LONG_S = 4.0

# Programs per core in a wave: enough that the cores seldom wait for the last one, few enough to hold in memory.
PROGRAMS_AHEAD = 4


@dataclass(kw_only=True)
class Scheduler:
    """A running sweep.

    Attributes:
      writer: Writes executed runs.
      executor: Executes runs.
      ending: Whether the sweep ends early.
      concurrent: Whether other processes work on the sweep.
      died: Runs, by id, whose process died while executing them, and how.
    """

    writer: RunWriter
    executor: RunExecutor
    ending: Ending
    concurrent: bool = False
    died: Mapping[str, str] = field(default_factory=dict)
    _programs: Programs = field(default_factory=Programs)
    # Loaded and compiled ahead of use; errors are reported where the result is used.
    _ahead: list[Future[None]] = field(default_factory=list)
    _num_programs: int = 0
    _num_compiled: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def run(self, plan: Plan, pending: Sequence[Task], *, apart: bool = False) -> None:
        """Runs wave after wave until all runs are done or the sweep ends early.

        Args:
          plan: The plan with the drafts of `pending`.
          pending: The runs to execute, ordered by program.
          apart: Whether no two of them train together: one of them may have killed a process.

        Raises:
          StorageError: The disk is full.
        """
        cores = machine.num_cores()
        with self.executor.working(pending), ThreadPoolExecutor(cores) as pool:
            try:
                pending = self._give_up(pending)
                self.executor.arrange(pending, apart=apart)
                self._run_waves(pool, plan, pending, cores * PROGRAMS_AHEAD)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                self._settle()
        if self.ending.broken is not None:
            raise self.ending.broken

    def _run_waves(self, pool: ThreadPoolExecutor, plan: Plan, pending: Sequence[Task], num_programs: int) -> None:
        # A single run compiles alone, for a reliable compile time; a sweep uses every core.
        several = len(pending) > 1
        contended = several or self.concurrent
        if several and _saves(pending) and not self.writer.processes.running:
            # While the first programs compile; `_settle` waits for it.
            self._ahead.append(pool.submit(checkpoint.warm))
        self._num_compiled = 0
        self._num_programs = len(self._programs.missing(task.program_key for task in pending))
        self.writer.reporter.compiled(0, self._num_programs)
        coming = waves(pending, num_programs)
        wave = next(coming, [])
        futures = self._compile(pool, plan, wave, contended)
        while wave and not self.ending.reached():
            programs = {key: compiled(future) for key, future in futures.items()}
            *earlier, last = list(bursts(wave, programs))
            for burst in earlier:
                self.writer.write(self._execute(pool, burst, programs))
            results = self._execute(pool, last, programs)
            # From here on nothing is timed: the next wave compiles while this one is written.
            wave = [] if self.ending.reached() else next(coming, [])
            futures = self._compile(pool, plan, wave, contended)
            self.writer.write(results)

    def _give_up(self, pending: Sequence[Task]) -> Sequence[Task]:
        """Records the runs that killed a process before as failed, and returns the others."""
        reasons = {task.job.num: self.died.get(task.job.identity.run_id) for task in pending}
        given_up = [(task, reasons[task.job.num]) for task in pending if reasons[task.job.num]]
        self.writer.write((task, execute.failed(task.job, failures.WorkerDied(reason))) for task, reason in given_up)
        return [task for task in pending if not reasons[task.job.num]]

    def _compile(
        self, pool: ThreadPoolExecutor, plan: Plan, wave: Sequence[Task], contended: bool
    ) -> dict[ProgramKey, Future[Program]]:
        if contended:  # first, as it takes longer than a program
            eager = [(task.job.run, plan.drafts[task.program_key]) for task in wave if task.job.compare_eager]
            self._ahead += [pool.submit(cross_checks.rehearse_eager, run, draft) for run, draft in eager]
        return self._programs.compile(pool, plan, wave, contended=contended, mark=self._mark_program)

    def _execute(
        self, pool: ThreadPoolExecutor, burst: Sequence[Task], programs: Mapping[ProgramKey, Program | Exception]
    ) -> list[tuple[Task, Result]]:
        """Executes and times runs; nothing else of ours runs meanwhile. What is not timed is written as it comes.

        Returns:
          What has yet to be written.
        """
        if any(_timed(task) for task in burst):
            self._settle()
        results: list[tuple[Task, Result]] = []
        for task in burst:
            # After Ctrl-C, runs that were trained with another one are finished: the training of all would be lost.
            if self.ending.reached() and not (self.ending.only_interrupted and self.executor.holds(task)):
                continue
            self._mark("begin", task)
            try:
                result = self.executor.execute(task, programs[task.program_key], pool)
            except Stopped:
                break
            except StorageError as error:  # executed runs are still written
                self.ending.broken = error
                break
            self.ending.count(task.job.run, result.record)
            if not _timed(task) and not results:
                self._mark("executed", task)
                self.writer.begin(task, result)
                self.writer.finish(num_left=BURST_RUNS)
                continue
            results.append((task, result))
            if result.record.wall_s > LONG_S:
                self._mark("executed", task)
                self.writer.write(results)
                self._settle()
                results = []
        if results:
            self._mark("executed", results[-1][0])
        return results

    def _mark(self, event: str, task: Task) -> None:
        """Notes in the journal which run is being executed: if the process dies, that run is to blame."""
        self.writer.journal.append(event, sync=False, run_id=task.job.identity.run_id)

    def _mark_program(self, event: str, program_id: str) -> None:
        """Notes in the journal which program is being compiled; called in any thread."""
        self.writer.journal.append(event, sync=False, program_id=program_id)
        if event == COMPILED:  # or failed to
            with self._counting:
                self._num_compiled += 1
                self.writer.reporter.compiled(self._num_compiled, self._num_programs)

    def _settle(self) -> None:
        """Waits until nothing of ours runs."""
        concurrent.futures.wait(self._ahead)
        self._ahead.clear()
        self.writer.settle()


def _timed(task: Task) -> bool:
    return task.job.run.timing.mode is not TimingMode.off


def _saves(tasks: Iterable[Task]) -> bool:
    return any(task.job.run.checkpoint.writes for task in tasks)
