"""Writes the runs of a sweep: files first, then the journal line, then the tracker; at the end the sweep's files."""

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
from runner.sweep.plan import Plan, Task
from runner.sweep.reporter import Reporter
from runner.sweep.run_state import CONCLUDED, FINISHED
from runner.sweep.writing.outputs import Summary
from runner.sweep.writing.retention import Keeper
from runner.sweep.writing.write_run import commit
from runner.tracking.tracker import Tracking

# Writer threads: half of the work is waiting for the disk, the other half is Python holding the GIL. Measured on
# 2 cores, 200 runs: 7.5 s with one thread, 5.3 with two, 6.2 with four.
WRITERS = 2


@dataclass(kw_only=True)
class RunWriter:
    """Writes the runs of one sweep.

    Attributes:
      journal: The journal; a run is done once its line is there.
      reporter: Notified of every written run.
      tracking: Receives every written run.
      ending: Counts the runs that could not be saved.
      threads: The writer threads, within `started`.
      num_removed: The number of removed checkpoints.
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
    _adopted: set[str] = field(default_factory=set)
    _untracked: dict[str, tuple[Record, RunFolder]] = field(default_factory=dict)

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Runs the writer threads within this context."""
        with ThreadPoolExecutor(WRITERS) as self.threads:
            yield

    def adopt(self, tasks: Iterable[Task]) -> None:
        """Notes in the journal the runs that ended by their sealed records alone."""
        adopted = [task for task in tasks if task.adopted and task.job.identity.run_id not in self._adopted]
        for task in adopted:
            self._append(store.read_record(task.folder))
            self._adopted.add(task.job.identity.run_id)
        if adopted:
            self.reporter.warned(f"runs that no journal has, kept since their records are whole: {len(adopted)}")

    def keep(self, plan: Plan, pending: Sequence[Task]) -> None:
        """Tells the keeper about existing checkpoints, except those of runs to be rerun."""
        if not plan.tasks:
            return  # a plan that has yet to grow
        self._keeper = Keeper(plan.tasks[0].job.run.checkpoint)
        again = {task.job.num for task in pending}
        there = [task for task in plan.tasks if task.state in FINISHED and task.job.num not in again]
        if not self._keeper.removes or not there:
            return
        counted = {row.run_id for row in find.read_rows(plan.folder) if row.checkpoint_bytes is not None}
        for task in there:
            record = store.read_record(task.folder)
            if record.run_id in counted and not record.saved:  # killed before the journal had it
                self._count_removed(record)
            self._keep(record, task.folder)

    def catch_up(self, plan: Plan, pending: Sequence[Task]) -> int:
        """Tracks runs that an earlier, stopped attempt finished but did not track; returns how many."""
        again = {task.job.num for task in pending}
        missing = [task for task in plan.untracked() if task.job.num not in again]
        for task in missing:
            record = store.read_record(task.folder)
            output = store.read_output(task.folder, record) if record.output else {}
            self._untracked[record.run_id] = record, task.folder
            self.tracking.submit(record, output, task.folder.path)
        return len(missing)

    def write(self, results: Iterable[tuple[Task, Result]]) -> None:
        """Writes runs; each is done once its journal line is on disk.

        Raises:
          StorageError: The disk is full; the runs that could be written are.
        """
        written = [(task, result, self.threads.submit(commit, task, result, self._clones)) for task, result in results]
        errors = []
        for task, result, future in written:
            try:
                record = future.result()
            except StorageError as error:  # the other runs that were written still count
                errors.append(error)
                continue
            self._add(task, result, record)
        if errors:
            raise errors[0]

    def settle(self) -> None:
        """Waits until tracking is finished, and adds its cost to the records."""
        # Tracking a run twice overwrites it, so these lines need not be on disk before we continue.
        for run_id in self.threads.map(self._add_cost, self.tracking.wait()):
            self.journal.append("tracked", sync=False, run_id=run_id)
        # A long sweep must not hold on to what it has written.
        self._untracked.clear()

    def conclude(self, plan: Plan) -> None:
        """Writes the sweep's files and its W&B run.

        What was written here is not read back: the reader alone takes half a second.
        """
        folders = {task.job.identity.run_id: task.folder for task in plan.tasks}
        for record in store.read_records(folder for run_id, folder in folders.items() if run_id not in self._summary):
            self._summary.add(record)
        rows = self._summary.write(plan.folder, folders)
        self._summary.write_report(plan.folder)
        self.tracking.log_sweep(plan.folder.name, rows)
        derived = [path.name for path in plan.folder.derived if path.exists()]
        self.journal.append(CONCLUDED, files=derived)

    def _add(self, task: Task, result: Result, record: Record) -> None:
        """Counts a run whose record is on disk."""
        self._append(record)
        self._untracked[record.run_id] = record, task.folder
        self._summary.add(record)
        if record.status is not result.record.status:
            self.ending.count(task.job.run, record)  # it could not be saved
        self._keep(record, task.folder)
        record, _ = self._untracked[record.run_id]
        self.tracking.submit(record, result.output, task.folder.path)
        self.reporter.finished(record, task.folder)

    def _append(self, record: Record) -> None:
        self.journal.append_run(row_of(record), software_id=record.fingerprint["software_id"])

    def _keep(self, record: Record, folder: RunFolder) -> None:
        """Removes the checkpoints that need not be kept now that this run is on disk."""
        for changed, where in self._keeper.add(record, folder):
            self._count_removed(changed)
            if changed.run_id in self._untracked:
                self._untracked[changed.run_id] = changed, where

    def _count_removed(self, record: Record) -> None:
        """Counts a run's removed checkpoint and notes it in the journal."""
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
