"""Runs a sweep on a launcher: splits it into jobs, submits them, waits for them (`follow`), and sums up.

The engine is any Hydra launcher. It only schedules; `runner.worker` does the runs in its processes.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.errors import StorageError, UserError
from runner.launch import queue
from runner.launch.follow import LOOK_S, Follower
from runner.launch.jobs import Crew, cut, submit
from runner.records.disk import files
from runner.records.journal import Journal, read_journal
from runner.records.paths import SubmissionFolder
from runner.sweep import blame
from runner.sweep import execute as sweep_execute
from runner.sweep.plan import Growth, Plan, Task, refreshed
from runner.sweep.reporter import Reporter, SweepOutcome
from runner.tracking.tracker import Tracking

# Between two polls of the engine's remaining jobs.
QUEUE_S = 5.0

# A job that dies is resubmitted as long as it completes runs, plus this many times: a machine may fail twice.
MAX_BARREN_ROUNDS = 3

MAX_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How a job ended that the engine lost.

    Attributes:
      reason: One sentence.
      blame: Whether the job itself caused it, rather than its machine.
    """

    reason: str
    blame: bool


class JobLost(Exception):
    """Returned in place of a job's result, by an engine that can detect the loss.

    Args:
      end: How the job ended.
    """

    def __init__(self, end: JobEnd) -> None:
        self.end = end
        super().__init__(end.reason)


# Starts that many jobs of a submission; returns when all have ended, with the lost ones by number.
Launch = Callable[[SubmissionFolder, int], Mapping[int, JobEnd]]


def execute(
    plan: Plan,
    *,
    crew: Crew,
    launch: Launch,
    tracking: Callable[..., Tracking],
    reporter: Reporter,
    stop: Callable[[], bool],
    growth: Growth | None = None,
) -> SweepOutcome:
    """Runs what is missing from `plan` on an engine, waits for it, and writes the sweep's files.

    Args:
      plan: What to do.
      crew: What the engine offers.
      launch: The engine.
      tracking: Makes the tracker of the sweep's own W&B run.
      reporter: Notified of everything as it happens.
      stop: Polled; True cancels what has not started and lets jobs end after their current run.
      growth: Extends the plan; None if it is complete.

    Raises:
      StorageError: The folder can't be written.
    """
    files.make_sweep_folder(plan.folder)
    before = queue.unfinished(plan.folder)
    submitted = {num for number, jobs in before.items() for num in queue.run_nums(plan.folder.submission(number), jobs)}
    pending = [task for task in plan.pending() if task.job.num not in submitted]
    judged = blame.of(plan, pending)
    pending = [task for group in judged.groups for task in group]
    sweep_execute.write_plan(plan)
    reporter.started(plan, growth.num_runs if growth else len(pending))
    if submitted:
        reporter.warned(f"runs whose jobs are queued or running, waited for: {len(submitted)}")
    follower = Follower(plan, reporter, stop)
    dispatch = _Dispatch(plan=plan, crew=crew, launch=launch, follower=follower)
    follower.follow(before)
    if judged.sentence:
        follower.say(judged.sentence)
    dispatch.rounds(pending, judged.died)
    dispatch.wait_for(before)
    if growth:
        dispatch.grow(growth)
    dispatch.conclude(tracking, reporter)
    return follower.outcome()


class _Dispatch:
    """A sweep running in other processes.

    Args:
      plan: What to do.
      crew: What the engine offers.
      launch: The engine.
      follower: Follows the journals of the jobs.
    """

    def __init__(self, *, plan: Plan, crew: Crew, launch: Launch, follower: Follower) -> None:
        self._plan = plan
        self._crew = crew
        self._launch = launch
        self._follower = follower

    def rounds(self, pending: Sequence[Task], died: Mapping[str, str] = {}) -> None:
        """Submits `pending` to the engine, and resubmits what is left of lost jobs; for `died` see `jobs.Piece`."""
        barren = 0
        while pending and not self._follower.ending() and barren <= MAX_BARREN_ROUNDS:
            num_before = len(self._follower.ended)
            jobs = cut(pending, self._crew)
            submission = submit(self._plan, jobs, self._crew, died)
            lost = self._launch_round(submission, len(jobs))
            barren = barren + 1 if len(self._follower.ended) == num_before else 0
            died = self._blamed(submission, jobs, lost)
            order = {task.job.num: index for index, task in enumerate(pending)}
            left = [task for num in lost for task in jobs[num] if task.job.identity.run_id not in self._follower.ended]
            pending = sorted(left, key=lambda task: order[task.job.num])

    def grow(self, growth: Growth) -> None:
        """Continues with what `growth` returns, until it returns nothing."""
        while not self._follower.ending() and (longer := growth.longer()) is not None:
            self._plan = self._follower.plan = longer
            sweep_execute.write_plan(longer)
            self.rounds(longer.pending())

    def wait_for(self, numbers: Sequence[int] | Mapping[int, Any]) -> None:
        """Waits for jobs that other processes submitted, or that the engine still has."""
        waiting = [self._plan.folder.submission(number) for number in numbers]
        while waiting:
            self._follower.look()
            if self._follower.ending():
                self._cancel(waiting)
            waiting = [one for one in waiting if queue.living_jobs(one)]
            if waiting:
                self._follower.pause(QUEUE_S)

    def conclude(self, tracking: Callable[..., Tracking], reporter: Reporter) -> None:
        """Writes the sweep's files, unless another process is still working on it."""
        self._follower.tell_news()
        self._plan = refreshed(self._plan)
        try:
            sweep_execute.conclude(self._plan, tracking=tracking, reporter=reporter)
        except StorageError as error:
            reporter.warned(f"{error.what}: its results come at its end, or with `bridge-runner results`")

    def _launch_round(self, submission: SubmissionFolder, num_jobs: int) -> Mapping[int, JobEnd]:
        """Runs the engine in a separate thread: this one follows the jobs and handles Ctrl-C."""
        self._follower.add(submission)
        result: dict[str, Any] = {}

        def launch() -> None:
            # What the engine starts from here inherits this: Ctrl-C in a terminal goes to all processes of it, and
            # which of them end, and when, is said by the file that asks them to stop.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                result["lost"] = self._launch(submission, num_jobs)
            except BaseException as error:  # noqa: BLE001 - raised again where the caller waits
                result["error"] = error

        with contextlib.closing(Journal(submission.launcher)) as journal:
            journal.append("start")
            # A second Ctrl-C does not wait for it.
            thread = threading.Thread(target=launch, daemon=True)
            thread.start()
            while thread.is_alive():
                self._follower.look()
                if self._follower.ending():
                    self._cancel([submission])
                thread.join(LOOK_S)
            self._follower.tell_news()
            lost = result.get("lost", {})
            if "error" in result:
                lost = self._after_error(submission, result["error"])
            journal.append("end")
        return lost

    def _after_error(self, submission: SubmissionFolder, error: BaseException) -> Mapping[int, JobEnd]:
        """Handles an engine that gave up: waits for its other jobs, since it does not."""
        while queue.living_jobs(submission, launcher_lives=False):
            if self._follower.ending():
                self._cancel([submission])
            self._follower.look()
            self._follower.pause(QUEUE_S)
        self._follower.tell_news()
        nums = range(_num_jobs(submission))
        lost = [num for num in nums if not queue.has_ended(submission.journal(num))]
        what = str(error).strip().splitlines() or ["it gave up"]
        if not any(submission.journal(num).exists() for num in nums) and not self._follower.ending():
            raise UserError(f"{self._crew.choice}: {type(error).__name__}: {what[0].rstrip('.')}") from error
        # None is lost: submitit mistakes a job that Slurm requeues for one that has ended.
        if lost and not self._follower.ending():
            self._follower.say(f"{self._crew.choice}: {type(error).__name__}: {what[0]}")
            listed = ", ".join(str(num) for num in lost[:MAX_LISTED]) + (", …" if len(lost) > MAX_LISTED else "")
            self._follower.say(f"ended before their time: jobs {listed} of {submission.path}")
        return {}

    def _blamed(
        self, submission: SubmissionFolder, jobs: Sequence[Sequence[Task]], lost: Mapping[int, JobEnd]
    ) -> dict[str, str]:
        """The runs that killed their process, according to their jobs' last marks, and why."""
        blamed: dict[str, str] = {}
        for num, end in lost.items():
            events = read_journal(submission.journal(num))
            marks = [event for event in events if event["event"] in ("start", "begin", "executed")]
            at = marks[-1]["event"] if marks else None
            if end.blame and at == "begin":
                blamed[marks[-1]["run_id"]] = end.reason
            elif end.blame and at == "start":
                # Nothing was executed, so it was compiling the program or its checks that failed.
                blamed |= {task.job.identity.run_id: end.reason for task in jobs[num]}
            else:
                self._follower.say(f"job {num} was lost and is done again: {end.reason}")
        return blamed

    def _cancel(self, waiting: Sequence[SubmissionFolder]) -> None:
        for submission in waiting:
            if not submission.stop.exists():
                submission.stop.touch()
                queue.cancel_queued(submission)


def _num_jobs(submission: SubmissionFolder) -> int:
    return int(queue.read(submission, submission.about)["num_jobs"])
