"""Writes the runs of a sweep: files first, then the journal's line, then the tracker; at the end the sweep's files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from runner.arrays.fast_checkpoint import CloneWriter
from runner.errors import StorageError
from runner.experiment.job import Result
from runner.records import find, store
from runner.records.journal import Journal
from runner.records.paths import RunFolder
from runner.records.record import Record
from runner.records.row import row_of
from runner.sweep.ending import Ending
from runner.sweep.outputs import Summary
from runner.sweep.plan import Plan, Task
from runner.sweep.reporter import Reporter
from runner.sweep.retention import Keeper
from runner.sweep.run_state import FINISHED
from runner.sweep.write_run import commit
from runner.tracking.tracker import Tracking

# Threads that write runs: half of the work is waiting for the disk, the other half Python that holds the lock. Measured
# on 2 cores, 200 runs: 7.5 s with one thread, 5.3 with two, 6.2 with four.
WRITERS = 2


@dataclass(kw_only=True)
class RunWriter:
    """Writes the runs of one sweep.

    Attributes:
      journal: Where the line is that makes a run done.
      reporter: Told of every run that is written.
      tracking: Given every run that is written.
      ending: Told of runs that could not be saved.
      threads: Those that write, while `started`.
      num_removed: How many checkpoints were removed.
    """

    journal: Journal
    reporter: Reporter
    tracking: Tracking
    ending: Ending
    threads: ThreadPoolExecutor = field(init=False)
    num_removed: int = 0
    _keeper: Keeper = field(init=False)
    _summary: Summary = field(default_factory=Summary)
    _clones: CloneWriter = field(default_factory=CloneWriter)
    _untracked: dict[str, tuple[Record, RunFolder]] = field(default_factory=dict)

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Has its threads as long as this lasts."""
        with ThreadPoolExecutor(WRITERS) as self.threads:
            yield

    def keep(self, plan: Plan, pending: Sequence[Task]) -> None:
        """Tells the keeper of the checkpoints that are there, but for those of runs to be done again."""
        if not plan.tasks:
            return  # of a plan that is to grow
        self._keeper = Keeper(plan.tasks[0].job.run.checkpoint)
        again = {task.job.num for task in pending}
        there = [task for task in plan.tasks if task.state in FINISHED and task.job.num not in again]
        if not self._keeper.removes or not there:
            return
        counted = {row.run_id for row in find.read_rows(plan.folder) if row.checkpoint_bytes is not None}
        for task in there:
            record = store.read_record(task.folder)
            if record.run_id in counted and not record.saved:  # a kill came before the journal had it
                self._count_removed(record)
            self._keep(record, task.folder)

    def catch_up(self, plan: Plan, pending: Sequence[Task]) -> int:
        """Tracks runs that were finished and not tracked, by an attempt that was stopped before; how many."""
        again = {task.job.num for task in pending}
        missing = [task for task in plan.untracked() if task.job.num not in again]
        for task in missing:
            record = store.read_record(task.folder)
            output = store.read_output(task.folder, record) if record.output else {}
            self._untracked[record.run_id] = record, task.folder
            self.tracking.submit(record, output, task.folder.path)
        return len(missing)

    def write(self, results: Iterable[tuple[Task, Result]]) -> None:
        """Writes runs; each is done when its line in the journal is on the disk.

        Raises:
          StorageError: The disk is full; what else could be written is.
        """
        written = [(task, result, self.threads.submit(commit, task, result, self._clones)) for task, result in results]
        errors = []
        for task, result, future in written:
            try:
                record = future.result()
            except StorageError as error:  # what else could be written counts all the same
                errors.append(error)
                continue
            self._add(task, result, record)
        if errors:
            raise errors[0]

    def settle(self) -> None:
        """Waits until nothing is tracked any more, and adds what tracking cost to the records."""
        # A run that is tracked twice replaces itself: these lines need not be on the disk before we go on.
        for run_id in self.threads.map(self._add_cost, self.tracking.wait()):
            self.journal.append("tracked", sync=False, run_id=run_id)
        # A long sweep must not keep what it has written.
        self._untracked.clear()

    def conclude(self, plan: Plan) -> None:
        """Writes the sweep's files and its W&B run.

        What was written here is not read again: the reader alone takes half a second.
        """
        folders = {task.job.identity.run_id: task.folder for task in plan.tasks}
        for record in store.read_records(folder for run_id, folder in folders.items() if run_id not in self._summary):
            self._summary.add(record)
        rows = self._summary.write(plan.folder, folders)
        self._summary.write_report(plan.folder)
        self.tracking.log_sweep(plan.folder.name, rows)

    def _add(self, task: Task, result: Result, record: Record) -> None:
        """Counts a run whose record is on the disk."""
        self.journal.append_run(row_of(record), software_id=record.fingerprint["software_id"])
        self._untracked[record.run_id] = record, task.folder
        self._summary.add(record)
        if record.status is not result.record.status:
            self.ending.count(task.job.run, record)  # it could not be saved
        self._keep(record, task.folder)
        record, _ = self._untracked[record.run_id]
        self.tracking.submit(record, result.output, task.folder.path)
        self.reporter.finished(record, task.folder)

    def _keep(self, record: Record, folder: RunFolder) -> None:
        """Lets go of the checkpoints that are not to be kept now that this run is on the disk."""
        for changed, where in self._keeper.add(record, folder):
            self._count_removed(changed)
            if changed.run_id in self._untracked:
                self._untracked[changed.run_id] = changed, where

    def _count_removed(self, record: Record) -> None:
        """Says that the checkpoint of a run is gone."""
        self.num_removed += 1
        self.journal.append(find.REMOVED, sync=False, run_id=record.run_id)
        self._summary.add(record)

    def _add_cost(self, cost: tuple[str, float]) -> str:
        run_id, tracker_s = cost
        record, folder = self._untracked[run_id]
        if record.timing is not None:
            timed = dataclasses.replace(record.timing, tracker_s=tracker_s)
            record = dataclasses.replace(record, timing=timed)
            store.write_record(folder, record)
            self._summary.add(record)
        return run_id
