"""Many runs: each once, done ones skipped, ordered by program, failures kept apart, all of it resumable.

A sweep goes in waves. The programs of a wave are compiled on all cores; then, with nothing of ours running beside them,
its runs are executed and timed; then their checkpoints, records and W&B runs are written while the next wave compiles.
A run counts as done when its line in the journal is on the disk, not before.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from runner.arrays import checkpoint
from runner.arrays.fast_checkpoint import CloneWriter
from runner.config.enums import OnFailure, TimingMode
from runner.config.settings import Run
from runner.errors import StorageError
from runner.experiment import cross_checks, failures
from runner.experiment import execute as experiment_execute
from runner.experiment.execute import Result
from runner.experiment.program import Program
from runner.experiment.training import Stopped
from runner.records import files, find, store
from runner.records.journal import Journal
from runner.records.paths import RunFolder
from runner.records.record import Record, Status
from runner.records.row import row_of
from runner.sweep.outputs import Summary
from runner.sweep.plan import FINISHED, Plan, ProgramKey, Task, plan_data
from runner.sweep.retention import Keeper
from runner.sweep.steps import StepFolder
from runner.sweep.write_run import MAKE_ROOM, commit, make_room
from runner.timing import machine
from runner.timing.turns import Turns
from runner.tracking.tracker import Tracking

# Executed but not yet written runs are lost by a crash and done again: so many at most, and so many bytes of arrays.
BURST_RUNS = 32
BURST_BYTES = 256 * 2**20

# Threads that write runs: half of the work is waiting for the disk, the other half Python that holds the lock. Measured
# on 2 cores, 200 runs: 7.5 s with one thread, 5.3 with two, 6.2 with four.
WRITERS = 2

# A run of so many seconds is written before the next one is executed: a crash would lose it, and who follows it waits.
# The comparison with the eager path, once a sweep, takes two of them.
LONG_S = 4.0

# Compiled programs that a search keeps, should it ask for one again: on a CPU each takes a few megabytes at most.
KEPT_PROGRAMS = 16

# Programs of a wave, a core: enough that the cores seldom wait for its last one, few enough to hold in memory.
PROGRAMS_AHEAD = 4


class Reporter(Protocol):
    """What a sweep tells of itself as it goes."""

    def started(self, plan: Plan, num_pending: int) -> None:
        """The sweep begins."""

    def finished(self, record: Record, folder: RunFolder) -> None:
        """A run is done or has failed, and is on the disk."""

    def advanced(self) -> None:
        """A run is done; of one that another process made, no more is read."""

    def warned(self, text: str) -> None:
        """Something went on without what was asked."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a sweep ended.

    Attributes:
      num_failed: How many of them failed.
      interrupted: True if it was asked to stop.
      stopped: The failure policy that ended it early, if one did.
    """

    num_failed: int
    interrupted: bool
    stopped: str | None


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a plan goes on whose configs are not known before the first of them have run.

    Attributes:
      num_runs: Runs that may come, at most.
      longer: The plan with the next runs, once those of the last one have ended; None where none are to come.
    """

    num_runs: int
    longer: Callable[[], Plan | None]


def execute(
    plan: Plan,
    *,
    tracking: Callable[..., Tracking],
    reporter: Reporter,
    stop: Callable[[], bool] = lambda: False,
    growth: Growth | None = None,
) -> Outcome:
    """Runs what is missing of `plan` and writes it.

    Args:
      plan: What to do.
      tracking: Makes the tracker, given `num_runs`, the number of runs to come.
      reporter: Told of everything as it happens.
      stop: Asked before every run; True ends the sweep after what is executed has been written.
      growth: How the plan goes on; None where it is whole.

    Raises:
      StorageError: Another process works in the folder, or the disk is full.
    """
    files.make_sweep_folder(plan.folder)
    with files.locked(plan.folder):
        pending = plan.pending()
        write_plan(plan)
        num_runs = growth.num_runs if growth else len(pending)
        with _started(plan, num_runs, tracking, reporter=reporter, stop=stop) as engine:
            engine.keep(pending)
            num_tracked = engine.catch_up(pending)
            engine.go(pending)
            if growth:
                engine.grow(growth)
            if len(engine.plan.tasks) > 1 and (num_runs or num_tracked or engine.num_removed):
                engine.conclude()
    return engine.outcome()


def conclude(plan: Plan, *, tracking: Callable[..., Tracking], reporter: Reporter) -> None:
    """Does what is left of a sweep once its runs were made elsewhere: its files, its W&B run, and runs not yet tracked.

    Args:
      plan: With the states that the runs have now.
      tracking: Makes the tracker.
      reporter: Told of what goes wrong.

    Raises:
      StorageError: Another process works in the folder, or the disk is full.
    """
    with (
        files.locked(plan.folder),
        _started(plan, len(plan.untracked()), tracking, reporter=reporter, announce=False) as engine,
    ):
        engine.keep([])
        engine.catch_up([])
        engine.go([])
        engine.conclude()


def work(
    plan: Plan,
    pending: Sequence[Task],
    journal: Journal,
    *,
    died: Mapping[str, str],
    tracking: Callable[..., Tracking],
    reporter: Reporter,
    stop: Callable[[], bool],
) -> Outcome:
    """Runs `pending` in a process that is one of several on this sweep, and holds the locks of these runs.

    Args:
      plan: What this process has of the sweep's.
      pending: What to run.
      journal: The journal of this process.
      died: Runs, by id, that ended the process that was at them, and how: written down as failed, and not tried.
      tracking: Makes the tracker, given `num_runs`.
      reporter: Told of everything as it happens.
      stop: Asked before every run.

    Raises:
      StorageError: The disk is full.
    """
    with _started(plan, len(pending), tracking, reporter=reporter, stop=stop, journal=journal) as engine:
        engine.died = died
        engine.keep(pending)
        engine.go(pending)
    return engine.outcome()


def write_plan(plan: Plan) -> None:
    """Writes the plan into the sweep's folder, if it is not there; of a search it is longer each time.

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
) -> Iterator[_Engine]:
    """A sweep under way, from the first line of a journal to its last; the sweep's own journal where none is given."""
    with _room(plan), _open(plan, journal) as lines:
        tracker = tracking(num_runs=num_pending)
        engine = _Engine(plan=plan, journal=lines, reporter=reporter, stop=stop, tracking=tracker)
        engine.beside = journal is not None
        with contextlib.closing(tracker):
            after = max(plan.folder.submissions(), default=0)
            lines.append("start", at=experiment_execute.now(), num_pending=num_pending, after=after)
            if announce:
                reporter.started(plan, num_pending)
            yield engine
            lines.append(
                "end",
                at=experiment_execute.now(),
                after=after,
                num_failed=engine.num_failed,
                interrupted=engine.interrupted,
            )


def _open(plan: Plan, journal: Journal | None) -> contextlib.AbstractContextManager[Journal]:
    if journal is not None:
        return contextlib.nullcontext(journal)
    return contextlib.closing(Journal(plan.folder.journal))


@dataclass
class _Engine:
    """A sweep under way.

    Attributes:
      ahead: What is loaded and compiled before anybody asks for it; whatever comes of it is said where it is asked for.
    """

    plan: Plan
    journal: Journal
    reporter: Reporter
    stop: Callable[[], bool]
    tracking: Tracking
    untracked: dict[str, tuple[Record, RunFolder]] = field(default_factory=dict)
    summary: Summary = field(default_factory=Summary)
    keeper: Keeper = field(init=False)
    compiled_for: set[ProgramKey] = field(default_factory=set)
    kept: dict[ProgramKey, Future[Program]] = field(default_factory=dict)
    clones: CloneWriter = field(default_factory=CloneWriter)
    writers: ThreadPoolExecutor = field(init=False)
    ahead: list[Future[None]] = field(default_factory=list)
    tracker_is_warm: bool = False
    contended: bool = False
    beside: bool = False
    died: Mapping[str, str] = field(default_factory=dict)
    turns: Turns = field(init=False)
    num_failed: int = 0
    num_removed: int = 0
    interrupted: bool = False
    stopped: str | None = None
    broken: StorageError | None = None

    def go(self, pending: Sequence[Task]) -> None:
        """Wave after wave, until all is done or the sweep is told to end."""
        cores = machine.num_cores()
        self.turns = Turns(give_up=self.stop)
        with self.turns.working(), ThreadPoolExecutor(cores) as pool, ThreadPoolExecutor(WRITERS) as self.writers:
            try:
                pending = self._give_up(pending)
                waves = _waves(pending, cores * PROGRAMS_AHEAD)
                # A single run compiles by itself, for a time to believe; a sweep uses every core.
                several = len(pending) > 1
                self.contended = several or self.beside
                if several and _saves(pending):
                    # While the first programs compile; `_settle` waits for it.
                    self.ahead.append(self.writers.submit(checkpoint.warm))
                wave = next(waves, [])
                futures = self._compile(pool, wave)
                while wave and not self._ending():
                    compiled = {key: _outcome(future) for key, future in futures.items()}
                    *earlier, last = list(_bursts(wave, compiled))
                    for burst in earlier:
                        self._write(self._execute(burst, compiled))
                    results = self._execute(last, compiled)
                    # From here on nothing is timed: the next wave compiles while this one is written.
                    wave = [] if self._ending() else next(waves, [])
                    futures = self._compile(pool, wave)
                    self._write(results)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                self._settle()
        if self.broken is not None:
            raise self.broken

    def grow(self, growth: Growth) -> None:
        """Goes on with what `growth` gives, as long as it gives something."""
        while not self._ending() and (longer := growth.longer()) is not None:
            is_first = not self.plan.tasks
            self.plan = longer
            write_plan(longer)
            if is_first:
                self.keep([])
            self.go(longer.pending())

    def _give_up(self, pending: Sequence[Task]) -> Sequence[Task]:
        """Writes the runs down that have ended a process before, and gives the others."""
        reasons = {task.job.num: self.died.get(task.job.identity.run_id) for task in pending}
        given_up = [(task, reasons[task.job.num]) for task in pending if reasons[task.job.num]]
        self._write(
            (task, experiment_execute.failed(task.job, failures.WorkerDied(reason))) for task, reason in given_up
        )
        return [task for task in pending if not reasons[task.job.num]]

    def keep(self, pending: Sequence[Task]) -> None:
        """Tells the keeper of the checkpoints that are there, but for those of runs to be done again."""
        if not self.plan.tasks:
            return  # of a plan that is to grow
        self.keeper = Keeper(self.plan.tasks[0].job.run.checkpoint)
        again = {task.job.num for task in pending}
        there = [task for task in self.plan.tasks if task.state in FINISHED and task.job.num not in again]
        if not self.keeper.removes or not there:
            return
        counted = {row.run_id for row in find.read_rows(self.plan.folder) if row.checkpoint_bytes is not None}
        for task in there:
            record = store.read_record(task.folder)
            if record.run_id in counted and not record.saved:  # a kill came before the journal had it
                self._count_removed(record)
            self._keep(record, task.folder)

    def catch_up(self, pending: Sequence[Task]) -> int:
        """Tracks runs that were finished and not tracked, by an attempt that was stopped before; how many."""
        again = {task.job.num for task in pending}
        missing = [task for task in self.plan.untracked() if task.job.num not in again]
        for task in missing:
            record = store.read_record(task.folder)
            output = store.read_output(task.folder, record) if record.output else {}
            self.untracked[record.run_id] = record, task.folder
            self.tracking.submit(record, output, task.folder.path)
        return len(missing)

    def _compile(self, pool: ThreadPoolExecutor, wave: Sequence[Task]) -> dict[ProgramKey, Future[Program]]:
        programs = {task.program_key: task.job.run for task in wave}
        if self.contended:  # it takes longer than a program: first
            eager = [(task.job.run, self.plan.drafts[task.program_key]) for task in wave if task.job.compare_eager]
            self.ahead += [pool.submit(cross_checks.rehearse_eager, run, draft) for run, draft in eager]
        for key, run in programs.items():
            if key not in self.kept:
                draft = self.plan.drafts[key]
                self.kept[key] = pool.submit(experiment_execute.prepare, draft, run, contended=self.contended)
        # A plan that grows comes back to a program; one that is whole does not.
        self._forget(programs)
        return {key: self.kept[key] for key in programs}

    def _forget(self, wanted: Mapping[ProgramKey, object]) -> None:
        """Keeps the programs that are wanted now, and in a plan that grows the newest others."""
        others = [key for key in self.kept if key not in wanted]
        num_kept = KEPT_PROGRAMS if self.plan.study is not None else 0
        for key in others[: max(len(others) - num_kept, 0)]:
            del self.kept[key]

    def _execute(
        self, burst: Sequence[Task], compiled: Mapping[ProgramKey, Program | Exception]
    ) -> list[tuple[Task, Result]]:
        """Executes and times; nothing else of ours runs meanwhile."""
        self._settle()
        results = []
        for task in burst:
            if self._ending():
                break
            self._mark("begin", task)
            program = compiled[task.program_key]
            if isinstance(program, Exception):
                result = experiment_execute.failed(task.job, program)
            else:
                first = task.program_key not in self.compiled_for
                self.compiled_for.add(task.program_key)
                try:
                    result = self._measure(task, program, first)
                except Stopped:
                    break
                except StorageError as error:  # what is executed is written all the same
                    self.broken = error
                    break
            results.append((task, result))
            self._judge(task.job.run, result.record)
            if result.record.wall_s > LONG_S:
                self._mark("executed", task)
                self._write(results)
                self._settle()
                results = []
        if results:
            self._mark("executed", results[-1][0])
        return results

    def _measure(self, task: Task, program: Program, first: bool) -> Result:
        """The result of a run, made while no other process of ours works here, or flagged if one does."""
        job, settings, steps = task.job, task.job.run.timing, self._steps(task)
        watch = self.tracking.follow(experiment_execute.head(job), task.folder.path) if program.training else None
        execute = functools.partial(
            experiment_execute.execute,
            job,
            program,
            compiled_here=first,
            watch=watch,
            steps=steps,
            beside=self._warm_tracker,
        )
        if settings.mode is TimingMode.off:
            return execute()
        result, contended = self.turns.measured(execute, wait=settings.turns)
        return experiment_execute.contended(result) if contended else result

    @contextlib.contextmanager
    def _warm_tracker(self) -> Iterator[None]:
        """Loads the tracker while the first run is checked: no time is taken then, and XLA lets go of Python's lock."""
        loading = None if self.tracker_is_warm else self.writers.submit(self.tracking.warm)
        self.tracker_is_warm = True
        try:
            yield
        finally:
            if loading is not None:
                loading.result()

    def _mark(self, event: str, task: Task) -> None:
        """Says in the journal of a job what it is at: should it die, that run is to blame."""
        if self.beside:
            self.journal.append(event, sync=False, run_id=task.job.identity.run_id)

    def _steps(self, task: Task) -> StepFolder | None:
        """Where the steps of a run's training go, and those of an attempt before are found."""
        train = task.job.run.train
        if not train.keeps_steps:
            return None
        make_room(task)
        task.folder.steps.mkdir(parents=True, exist_ok=True)
        return StepFolder(
            task.folder.steps,
            every=train.save_every,
            keep=train.keep_steps,
            software_id=machine.fingerprint()["software_id"],
            stopping=self._ending,
            warn=self.reporter.warned,
        )

    def _write(self, results: Iterable[tuple[Task, Result]]) -> None:
        written = [(task, result, self.writers.submit(commit, task, result, self.clones)) for task, result in results]
        errors = []
        for task, result, future in written:
            try:
                record = future.result()
            except StorageError as error:  # what else could be written counts all the same
                errors.append(error)
                continue
            self.journal.append_run(row_of(record), software_id=record.fingerprint["software_id"])
            self.untracked[record.run_id] = record, task.folder
            self.summary.add(record)
            if record.status is not result.record.status:
                self._judge(task.job.run, record)  # it could not be saved
            self._keep(record, task.folder)
            record, _ = self.untracked[record.run_id]
            self.tracking.submit(record, result.output, task.folder.path)
            self.reporter.finished(record, task.folder)
        if errors:
            raise errors[0]

    def _keep(self, record: Record, folder: RunFolder) -> None:
        """Lets go of the checkpoints that are not to be kept now that this run is on the disk."""
        for changed, where in self.keeper.add(record, folder):
            self._count_removed(changed)
            if changed.run_id in self.untracked:
                self.untracked[changed.run_id] = changed, where

    def _count_removed(self, record: Record) -> None:
        """Says that the checkpoint of a run is gone."""
        self.num_removed += 1
        self.journal.append(find.REMOVED, sync=False, run_id=record.run_id)
        self.summary.add(record)

    def _settle(self) -> None:
        """Waits until nothing of ours runs, and adds what tracking cost to the records."""
        concurrent.futures.wait(self.ahead)
        self.ahead.clear()
        # A run that is tracked twice replaces itself: these lines need not be on the disk before we go on.
        for run_id in self.writers.map(self._add_cost, self.tracking.wait()):
            self.journal.append("tracked", sync=False, run_id=run_id)
        # A long sweep must not keep what it has written.
        self.untracked.clear()

    def _add_cost(self, cost: tuple[str, float]) -> str:
        run_id, tracker_s = cost
        record, folder = self.untracked[run_id]
        if record.timing is not None:
            timed = dataclasses.replace(record.timing, tracker_s=tracker_s)
            record = dataclasses.replace(record, timing=timed)
            store.write_record(folder, record)
            self.summary.add(record)
        return run_id

    def outcome(self) -> Outcome:
        """How it ended."""
        return Outcome(num_failed=self.num_failed, interrupted=self.interrupted, stopped=self.stopped)

    def conclude(self) -> None:
        """Writes the sweep's files and its W&B run.

        What was written here is not read again: the reader alone takes half a second.
        """
        folders = {task.job.identity.run_id: task.folder for task in self.plan.tasks}
        for record in store.read_records(folder for run_id, folder in folders.items() if run_id not in self.summary):
            self.summary.add(record)
        rows = self.summary.write(self.plan.folder, folders)
        self.summary.write_report(self.plan.folder)
        self.tracking.log_sweep(self.plan.folder.name, rows)

    def _judge(self, run: Run, record: Record) -> None:
        """Counts a failed run; the policy may end the sweep."""
        self.num_failed += record.status is Status.failed
        if self.num_failed and run.on_failure is OnFailure.stop:
            self.stopped = "on_failure=stop"
        elif run.max_failures is not None and self.num_failed >= run.max_failures:
            self.stopped = f"max_failures={run.max_failures}"

    def _ending(self) -> bool:
        self.interrupted = self.interrupted or self.stop()
        return self.interrupted or self.stopped is not None or self.broken is not None


def _saves(tasks: Iterable[Task]) -> bool:
    return any(task.job.run.checkpoint.writes for task in tasks)


def _waves(tasks: Sequence[Task], num_programs: int) -> Iterator[list[Task]]:
    """`tasks`, already ordered by program, in groups of at most `num_programs` programs."""
    by_program = [list(group) for _, group in itertools.groupby(tasks, key=lambda task: task.program_key)]
    for start in range(0, len(by_program), num_programs):
        yield [task for group in by_program[start : start + num_programs] for task in group]


def _bursts(wave: Sequence[Task], compiled: Mapping[ProgramKey, Program | Exception]) -> Iterator[list[Task]]:
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


def _outcome(future: Future[Program]) -> Program | Exception:
    """What was compiled, or why not: the layer's own code may raise anything."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, Exception):
        return error
    raise error
