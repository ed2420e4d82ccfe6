"""Writes the runs of a sweep: files first, then the journal line, then the tracker; at the end the sweep's files.

Files and trackers are the work of other processes where a sweep has many runs; the journal's lines are written here.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from runner.bridge import user_source
from runner.config.enums import InputKind
from runner.errors import StorageError
from runner.experiment.job import Result
from runner.records import find, kept_sources, store
from runner.records.codec import growing
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
from runner.sweep.writing.write_run import Writing, commit, written
from runner.tracking.processes import Processes
from runner.tracking.tracker import Tracking


@dataclass(frozen=True)
class _Begun:
    task: Task
    result: Result
    writing: Writing
    record: Future[Record]


@dataclass(kw_only=True)
class RunWriter:
    """Writes the runs of one sweep.

    Attributes:
      journal: The journal; a run is done once its line is there.
      reporter: Notified of every written run.
      tracking: Receives every written run.
      ending: Counts the runs that could not be saved.
      processes: Where runs are written if they were started; what is too large stays in this process.
      num_removed: The number of removed checkpoints.
    """

    journal: Journal
    reporter: Reporter
    tracking: Tracking
    ending: Ending
    processes: Processes
    num_removed: int = 0
    _keeper: Keeper = field(init=False)
    _summary: Summary = field(default_factory=Summary)
    _begun: deque[_Begun] = field(default_factory=deque)
    _broken: bool = False
    _adopted: set[str] = field(default_factory=set)
    _untracked: dict[str, tuple[Record, RunFolder]] = field(default_factory=dict)

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
        for task, result in results:
            self.begin(task, result)
        self.finish()

    def begin(self, task: Task, result: Result) -> None:
        """Starts to write a run, in a process of its own if these were started."""
        what = _writing(task, result)
        if self.processes.running and not self._broken and what.can_be_sent():
            future = self.processes.submit(commit, what)
        else:
            future = _committed(what)
        self._begun.append(_Begun(task, result, what, future))

    def finish(self, num_left: int = 0) -> None:
        """Waits until all but `num_left` of the runs that were begun are done, and ends those that are written.

        Raises:
          StorageError: The disk is full; the runs that could be written are.
        """
        errors: list[StorageError] = []
        while self._begun and (len(self._begun) > num_left or self._begun[0].record.done()):
            written = list(self._written(errors))
            for begun, record in written:
                self._append(record, sync=begun is written[-1][0])  # the last line takes the others to disk
            for begun, record in written:
                self._add(begun.task, begun.result, record)
        if errors:
            raise errors[0]

    def _written(self, errors: list[StorageError]) -> Iterator[tuple[_Begun, Record]]:
        """The run that was begun first, once it is written, and those after it that are as well."""
        while True:
            begun = self._begun.popleft()
            try:
                yield begun, self._record(begun)
            except StorageError as error:  # the other runs that were written still count
                errors.append(error)
            if not self._begun or not self._begun[0].record.done():
                return

    def settle(self) -> None:
        """Waits until everything begun is written and tracked, and adds what tracking cost to the records."""
        self.processes.wait()
        self.finish()
        costs = [self._with_cost(*cost) for cost in self.tracking.wait()]
        store.write_records(costs)
        # Tracking a run twice overwrites it, so these lines need not be on disk before we continue.
        for record, _ in costs:
            self.journal.append("tracked", sync=False, run_id=record.run_id)
        # A long sweep must not hold on to what it has written.
        self._untracked.clear()

    def conclude(self, plan: Plan) -> None:
        """Writes the sweep's files and its W&B run.

        What was written here is not read back: the reader alone takes half a second.
        """
        folders = {task.job.identity.run_id: task.folder for task in plan.tasks}
        with growing():
            missing = (folder for run_id, folder in folders.items() if run_id not in self._summary)
            for record in store.read_records(missing):
                self._summary.add(record)
            rows = self._summary.write(plan.folder, folders)
            self._summary.write_report(plan.folder)
        self.tracking.log_sweep(plan.folder.name, rows)
        derived = [path.name for path in plan.folder.derived if path.exists()]
        self.journal.append(CONCLUDED, files=derived)

    def _add(self, task: Task, result: Result, record: Record) -> None:
        """Counts a run that the journal has."""
        self._untracked[record.run_id] = record, task.folder
        self._summary.add(record)
        if record.status is not result.record.status:
            self.ending.count(task.job.run, record)  # it could not be saved
        self._keep(record, task.folder)
        record, _ = self._untracked[record.run_id]
        self.tracking.submit(record, result.output, task.folder.path)
        self.reporter.finished(record, task.folder)

    def _append(self, record: Record, *, sync: bool = True) -> None:
        self.journal.append_run(row_of(record), software_id=record.fingerprint["software_id"], sync=sync)

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

    def _with_cost(self, run_id: str, tracker_s: float) -> tuple[Record, RunFolder]:
        """A tracked run, its record with the seconds that tracking it took."""
        record, folder = self._untracked[run_id]
        if record.timing is not None:
            timed = dataclasses.replace(record.timing, tracker_s=tracker_s)
            record = dataclasses.replace(record, timing=timed)
            self._summary.add(record)
        return record, folder

    def _record(self, begun: _Begun) -> Record:
        """The record of a run that was begun, once it is written; by this process if the other one died meanwhile."""
        try:
            return begun.record.result()
        except BrokenProcessPool as error:
            if not self._broken:
                self.reporter.warned(f"a process that writes runs died ({error}): this one writes them now")
            self._broken = True
            return written(begun.writing) or _committed(begun.writing).result()


def _writing(task: Task, result: Result) -> Writing:
    """What is to be written for a run."""
    run = task.job.run
    return Writing(
        folder=task.folder,
        state=task.state,
        keeps_steps=run.train.keeps_steps,
        record=result.record,
        output=result.output,
        variables=result.variables,
        train_state=result.train_state,
        checkpoint=run.checkpoint,
        hydra_files=task.config.hydra_files(task.job.num),
        input_path=str(run.input.path) if run.input.kind is InputKind.file else None,
        sources=kept_sources.missing(task.folder, user_source.texts(run)),
        redaction=task.config.redaction,
    )


def _committed(what: Writing) -> Future[Record]:
    """A run written by this process."""
    future: Future[Record] = Future()
    try:
        future.set_result(commit(what))
    except StorageError as error:
        future.set_exception(error)
    return future
