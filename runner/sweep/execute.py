"""Executes a sweep: deduplicated, finished runs skipped, ordered by program, failures isolated, resumable.

Read this second, after `runner.experiment.execute`. A sweep runs in waves (`waves`). The programs of a wave are
compiled on all cores (`programs`); then its runs are executed and timed, with no other work of ours running
(`run_executor`); then their checkpoints, records and W&B runs are written (`run_writer`) while the next wave compiles.
`scheduler` enforces that order. A run is done only once its journal line is on disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from runner.errors import StorageError
from runner.experiment.run_record import now
from runner.records import store
from runner.records.disk import files
from runner.records.journal import Journal
from runner.sweep import blame
from runner.sweep.ending import Ending
from runner.sweep.plan import Growth, Plan, Task, plan_data
from runner.sweep.reporter import Reporter, SweepOutcome
from runner.sweep.run_executor import RunExecutor
from runner.sweep.scheduler import Scheduler
from runner.sweep.writing import writers
from runner.sweep.writing.run_writer import RunWriter
from runner.sweep.writing.write_run import MAKE_ROOM
from runner.timing import machine, memory
from runner.timing.turns import Turns
from runner.tracking.processes import Processes
from runner.tracking.tracker import Tracking


def execute(
    plan: Plan,
    *,
    tracking: Callable[..., Tracking],
    reporter: Reporter,
    stop: Callable[[], bool] = lambda: False,
    growth: Growth | None = None,
) -> SweepOutcome:
    """Executes and writes the pending runs of `plan`.

    Args:
      plan: The plan.
      tracking: Makes the tracker, given `num_runs`, the number of runs to come, and `processes`, which it may need.
      reporter: Notified of every event as it happens.
      stop: Polled before every run; True ends the sweep once all executed runs are written.
      growth: Extends the plan; None if it is complete.

    Raises:
      StorageError: Another process is using the folder, or the disk is full.
    """
    files.make_sweep_folder(plan.folder)
    with files.locked(plan.folder):
        pending = plan.pending()
        judged = blame.of(plan, pending)
        pending = [task for group in judged.groups for task in group]
        write_plan(plan)
        num_runs = growth.num_runs if growth else len(pending)
        with _started(plan, num_runs, tracking, reporter=reporter, stop=stop) as scheduler:
            writer = scheduler.writer
            writer.adopt(plan.tasks)
            writer.keep(plan, pending)
            num_tracked = writer.catch_up(plan, pending)
            if judged.sentence:
                reporter.warned(judged.sentence)
            scheduler.died = judged.died
            for place, group in enumerate(judged.groups):
                scheduler.run(plan, group, apart=place > 0)
            if growth:
                plan = _grow(plan, growth, scheduler)
            changed = num_runs or num_tracked or writer.num_removed or not plan.concluded
            if len(plan.tasks) > 1 and changed:
                writer.conclude(plan)
    return scheduler.ending.outcome()


def _grow(plan: Plan, growth: Growth, scheduler: Scheduler) -> Plan:
    """Runs what `growth` adds until it adds nothing more; returns the final plan."""
    while not scheduler.ending.reached() and (longer := growth.longer()) is not None:
        write_plan(longer)
        if not plan.tasks:
            scheduler.writer.keep(longer, [])
        scheduler.writer.adopt(longer.tasks)
        plan = longer
        scheduler.run(plan, plan.pending())
    return plan


def conclude(plan: Plan, *, tracking: Callable[..., Tracking], reporter: Reporter) -> None:
    """Finishes a sweep whose runs were executed by other processes: its files, its W&B run, and untracked runs.

    Args:
      plan: The plan, with the current state of every run.
      tracking: Makes the tracker.
      reporter: Notified of what goes wrong.

    Raises:
      StorageError: Another process is using the folder, or the disk is full.
    """
    with (
        files.locked(plan.folder),
        _started(plan, len(plan.untracked()), tracking, reporter=reporter, announce=False) as scheduler,
    ):
        scheduler.writer.adopt(plan.tasks)
        scheduler.writer.keep(plan, [])
        scheduler.writer.catch_up(plan, [])
        scheduler.run(plan, [])
        scheduler.writer.conclude(plan)


def work(
    plan: Plan,
    pending: Sequence[Task],
    journal: Journal,
    *,
    died: Mapping[str, str],
    tracking: Callable[..., Tracking],
    reporter: Reporter,
    stop: Callable[[], bool],
) -> SweepOutcome:
    """Executes `pending` in one of several processes on this sweep; this one holds the locks of these runs.

    Args:
      plan: This process's part of the sweep's plan.
      pending: The runs to execute.
      journal: The journal of this process.
      died: Runs, by id, whose process died while executing them, and how: recorded as failed, not retried.
      tracking: Makes the tracker, given `num_runs` and `processes`.
      reporter: Notified of every event as it happens.
      stop: Polled before every run.

    Raises:
      StorageError: The disk is full.
    """
    with _started(plan, len(pending), tracking, reporter=reporter, stop=stop, journal=journal) as scheduler:
        scheduler.died = died
        scheduler.writer.adopt(pending)  # a job that was requeued: its first attempt was killed before the journal line
        pending = [task for task in pending if not task.adopted]
        scheduler.writer.keep(plan, pending)
        scheduler.run(plan, pending)
    return scheduler.ending.outcome()


def write_plan(plan: Plan) -> None:
    """Writes the plan into the sweep's folder unless it is already there; a search's plan grows each time.

    Raises:
      StorageError: The disk is full.
    """
    with _room(plan):
        if plan.study is not None or not plan.folder.plan.exists():
            store.write_plan(plan.folder, plan_data(plan))


@contextlib.contextmanager
def _room(plan: Plan) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"writing to {plan.folder.path}: {error.strerror or error}", MAKE_ROOM) from error


@contextlib.contextmanager
def _started(
    plan: Plan,
    num_pending: int,
    tracking: Callable[..., Tracking],
    *,
    reporter: Reporter,
    stop: Callable[[], bool] = lambda: False,
    journal: Journal | None = None,
    announce: bool = True,
) -> Iterator[Scheduler]:
    """A running sweep, from a journal's first line to its last; uses the sweep's own journal unless one is given."""
    with _room(plan), _open(plan, journal) as lines:
        processes, ending = Processes(machine.num_cores() + writers.NUM_WAITING), Ending(stop=stop)
        tracker = tracking(num_runs=num_pending, processes=processes)
        writers.need(processes, num_pending)
        writer = RunWriter(journal=lines, reporter=reporter, tracking=tracker, ending=ending, processes=processes)
        executor = RunExecutor(
            tracking=tracker,
            turns=Turns(name=str(plan.folder.path.absolute()), give_up=stop, say=reporter.warned),
            stopping=ending.reached,
            warn=reporter.warned,
            mark=lambda event, run_ids: lines.append(event, sync=False, run_ids=list(run_ids)),
            saves_here=not processes.needed,
        )
        with contextlib.closing(tracker), contextlib.closing(processes), blame.proved(lines.path):
            processes.start()
            after = max(plan.folder.submissions(), default=0)
            lines.append("start", at=now(), num_pending=num_pending, after=after, oom_kills=memory.num_oom_kills())
            if announce:
                reporter.started(plan, num_pending)
            try:
                yield Scheduler(writer=writer, executor=executor, ending=ending, concurrent=journal is not None)
            except BaseException:
                lines.append("left", sync=False, at=now())
                raise
            failed, interrupted = ending.num_failed, ending.interrupted
            lines.append("end", at=now(), after=after, num_failed=failed, interrupted=interrupted)


def _open(plan: Plan, journal: Journal | None) -> contextlib.AbstractContextManager[Journal]:
    if journal is not None:
        return contextlib.nullcontext(journal)
    return contextlib.closing(Journal(plan.folder.journal))
