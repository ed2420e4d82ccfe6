"""Executes the runs of a sweep: exclusively while timed, streaming to the tracker while training."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from runner.arrays import checkpoint
from runner.config.enums import TimingMode
from runner.experiment import execute, run_record
from runner.experiment.job import Result
from runner.experiment.program import Program
from runner.experiment.trained_run import Seen
from runner.records.redaction import redacted
from runner.sweep.chunks import Chunks
from runner.sweep.plan import Task
from runner.sweep.validate import ProgramKey
from runner.sweep.writing.steps import StepFolder
from runner.sweep.writing.write_run import make_room
from runner.timing import machine
from runner.timing.turns import Turns
from runner.tracking.tracker import Tracking


@dataclass(kw_only=True)
class RunExecutor:
    """Executes the runs of one sweep, one after the other.

    Attributes:
      tracking: Follows training runs.
      turns: Keeps other processes of ours from working during a measurement.
      stopping: Polled; True ends training after its next step.
      warn: Called with one sentence.
      saves_here: Whether this process writes checkpoints, and not others.
      mark: Called before and after runs are trained together: with an event and their ids.
    """

    tracking: Tracking
    turns: Turns
    stopping: Callable[[], bool]
    warn: Callable[[str], None]
    saves_here: bool = True
    mark: Callable[[str, Sequence[str]], None] = lambda event, run_ids: None
    _compiled_for: set[ProgramKey] = field(default_factory=set)
    _is_warm: bool = False
    _chunks: Chunks = field(init=False)

    def __post_init__(self) -> None:
        self._chunks = Chunks(self.mark)

    def arrange(self, pending: Sequence[Task], *, apart: bool) -> None:
        """Decides which of the runs to come train together; see `Chunks.arrange`."""
        self._chunks.arrange(pending, apart=apart)

    def holds(self, task: Task) -> bool:
        """Whether a run is trained already, with another one."""
        return self._chunks.holds(task)

    def working(self, pending: Sequence[Task]) -> contextlib.AbstractContextManager[None]:
        """Keeps other processes from measuring; waits for one that does if a run of `pending` is to be timed alone."""
        timings = [task.job.run.timing for task in pending]
        return self.turns.working(wait=any(one.turns and one.mode is not TimingMode.off for one in timings))

    def execute(self, task: Task, program: Program | Exception, threads: ThreadPoolExecutor) -> Result:
        """Executes a run and returns its result.

        Args:
          task: The run.
          program: Its program, or the exception that compiling it raised.
          threads: Pool on which the tracker is loaded.

        Raises:
          Stopped: Training was asked to end; its last step is saved.
          StorageError: A training step can't be written.
        """
        if isinstance(program, Exception):
            return execute.failed(task.job, program)
        first = task.program_key not in self._compiled_for
        self._compiled_for.add(task.program_key)
        return self._measure(task, program, first, threads)

    def _measure(self, task: Task, program: Program, first: bool, threads: ThreadPoolExecutor) -> Result:
        """The result of a run, executed while no other process of ours works here, or flagged if one does."""
        job, settings = task.job, task.job.run.timing
        how: dict[str, Any] = {}
        if program.population is not None:
            how = {"trained": functools.partial(self._chunks.trained, task, program, self._seen)}
        elif program.training is not None:
            how = vars(self._seen(task))
        act = functools.partial(
            execute.execute,
            job,
            program,
            compiled_here=first,
            during_checks=functools.partial(self._warm, threads, saves=self.saves_here and job.run.checkpoint.writes),
            **how,
        )
        if settings.mode is TimingMode.off:
            return act()
        result, contended = self.turns.measured(act, wait=settings.turns)
        return run_record.contended(result) if contended else result

    @contextlib.contextmanager
    def _warm(self, threads: ThreadPoolExecutor, *, saves: bool) -> Iterator[None]:
        """Loads the tracker and Orbax during the first run's checks: nothing is timed then, and XLA frees the GIL."""
        wanted = [] if self._is_warm else [self.tracking.warm, *([checkpoint.warm] if saves else [])]
        loading = [threads.submit(one) for one in wanted]
        self._is_warm = True
        try:
            yield
        finally:
            for one in loading:
                one.result()

    def _seen(self, task: Task) -> Seen:
        """Who sees a run while it trains, and where its steps are saved."""
        head = redacted(run_record.head(task.job), task.config.redaction)
        return Seen(watch=self.tracking.follow(head, task.folder.path), steps=self._steps(task))

    def _steps(self, task: Task) -> StepFolder | None:
        """Where a run's training steps are saved, and where those of an earlier attempt are found."""
        train = task.job.run.train
        if not train.keeps_steps:
            return None
        make_room(task.folder, task.state, keeps_steps=True)
        task.folder.steps.mkdir(parents=True, exist_ok=True)
        return StepFolder(
            task.folder.steps,
            every=train.save_every,
            keep=train.keep_steps,
            software_id=machine.fingerprint()["software_id"],
            stopping=self.stopping,
            warn=self.warn,
        )
