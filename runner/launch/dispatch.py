"""The process that hands a sweep to an engine beside it: cuts it into jobs, follows their journals, and sums up.

The engine is any launcher of Hydra's. It schedules; the runs themselves are made by `runner.worker` in its processes.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.enums import OnFailure
from runner.errors import StorageError, UserError
from runner.launch import queue
from runner.launch.jobs import Crew, cut, submit
from runner.records import files, find, store
from runner.records.journal import Journal, read_journal
from runner.records.paths import SubmissionFolder
from runner.records.record import Status
from runner.sweep import execute as sweep_execute
from runner.sweep.execute import Growth, Outcome, Reporter
from runner.sweep.plan import Plan, Task, refreshed
from runner.tracking.tracker import Tracking

# Between two looks at the journals, and at what the engine still has.
LOOK_S = 0.2
LOOK_SHARE = 10  # and so many times as long as a look takes
QUEUE_S = 5.0

# A job that dies is cut anew as long as runs come out of it, and so often besides: a machine may go twice.
MAX_BARREN_ROUNDS = 3

MAX_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How an engine says that a job ended which it lost.

    Attributes:
      reason: One sentence.
      blame: Whether the job itself did it, rather than the machine that it was on.
    """

    reason: str
    blame: bool


class JobLost(Exception):
    """Returned by an engine that can tell, in the place of what a job would have returned.

    Args:
      end: How the job ended.
    """

    def __init__(self, end: JobEnd) -> None:
        self.end = end
        super().__init__(end.reason)


# Starts the jobs of a submission, so many; returns when all have ended, with those that were lost, by number.
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
) -> Outcome:
    """Has what is missing of `plan` run by an engine, waits for it, and writes the sweep's files.

    Args:
      plan: What to do.
      crew: What the engine offers.
      launch: The engine.
      tracking: Makes the tracker of the sweep's own W&B run.
      reporter: Told of everything as it happens.
      stop: Asked all the time; True takes back what has not begun and lets the jobs end after their run.
      growth: How the plan goes on; None where it is whole.

    Raises:
      StorageError: The folder can't be written.
    """
    files.make_sweep_folder(plan.folder)
    before = queue.unfinished(plan.folder)
    elsewhere = {num for number, jobs in before.items() for num in queue.run_nums(plan.folder.submission(number), jobs)}
    pending = [task for task in plan.pending() if task.job.num not in elsewhere]
    sweep_execute.write_plan(plan)
    reporter.started(plan, growth.num_runs if growth else len(pending))
    if elsewhere:
        reporter.warned(f"runs whose jobs are queued or running, waited for: {len(elsewhere)}")
    launching = _Launching(plan=plan, crew=crew, launch=launch, reporter=reporter, stop=stop)
    launching.follow(before)
    launching.rounds(pending)
    launching.wait_for(before)
    if growth:
        launching.grow(growth)
    launching.conclude(tracking)
    return launching.outcome()


class _Launching:
    """A sweep under way elsewhere."""

    def __init__(self, *, plan: Plan, crew: Crew, launch: Launch, reporter: Reporter, stop: Callable[[], bool]) -> None:
        self.plan = plan
        self._crew = crew
        self._launch = launch
        self._reporter = reporter
        self._stop = stop
        self._followed: dict[SubmissionFolder, dict[Path, int]] = {}
        self._ended: set[str] = set()
        self._said: set[str] = set()
        self._num_failed = 0
        self._next_look = 0.0
        self._stopped: str | None = None

    def follow(self, numbers: Sequence[int] | Mapping[int, Any]) -> None:
        """From now on tells what the journals of these submissions say from now on."""
        for number in numbers:
            submission = self.plan.folder.submission(number)
            self._followed[submission] = {path: path.stat().st_size for path in submission.journals()}

    def rounds(self, pending: Sequence[Task]) -> None:
        """Hands `pending` to the engine, and what is left of a job that was lost once more."""
        died: dict[str, str] = {}
        barren = 0
        while pending and not self._ending() and barren <= MAX_BARREN_ROUNDS:
            num_before = len(self._ended)
            jobs = cut(pending, self._crew)
            submission = submit(self.plan, jobs, self._crew, died)
            lost = self._launch_round(submission, len(jobs))
            barren = barren + 1 if len(self._ended) == num_before else 0
            died = self._blamed(submission, jobs, lost)
            order = {task.job.num: index for index, task in enumerate(pending)}
            left = [task for num in lost for task in jobs[num] if task.job.identity.run_id not in self._ended]
            pending = sorted(left, key=lambda task: order[task.job.num])

    def grow(self, growth: Growth) -> None:
        """Goes on with what `growth` gives, as long as it gives something."""
        while not self._ending() and (longer := growth.longer()) is not None:
            self.plan = longer
            sweep_execute.write_plan(longer)
            self.rounds(longer.pending())

    def wait_for(self, numbers: Sequence[int] | Mapping[int, Any]) -> None:
        """Waits for jobs that were submitted by others, or that the engine still has."""
        waiting = [self.plan.folder.submission(number) for number in numbers]
        while waiting:
            self._look()
            if self._ending():
                self._cancel(waiting)
            waiting = [one for one in waiting if queue.living_jobs(one)]
            if waiting:
                self._pause(QUEUE_S)

    def conclude(self, tracking: Callable[..., Tracking]) -> None:
        """Writes the sweep's files, unless somebody else still works on it."""
        self._tell_news()
        self.plan = refreshed(self.plan)
        try:
            sweep_execute.conclude(self.plan, tracking=tracking, reporter=self._reporter)
        except StorageError as error:
            self._reporter.warned(f"{error.what}: its results come at its end, or with `bridge-runner results`")

    def outcome(self) -> Outcome:
        """How it ended."""
        interrupted = self._stop()
        return Outcome(num_failed=self._num_failed, interrupted=interrupted, stopped=self._stopped)

    def _launch_round(self, submission: SubmissionFolder, num_jobs: int) -> Mapping[int, JobEnd]:
        """Runs the engine in a thread of its own: this one follows, and hears Ctrl-C."""
        self._followed[submission] = {}
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
            # Not waited for at a second Ctrl-C.
            thread = threading.Thread(target=launch, daemon=True)
            thread.start()
            while thread.is_alive():
                self._look()
                if self._ending():
                    self._cancel([submission])
                thread.join(LOOK_S)
            self._tell_news()
            lost = result.get("lost", {})
            if "error" in result:
                lost = self._after_error(submission, result["error"])
            journal.append("end")
        return lost

    def _after_error(self, submission: SubmissionFolder, error: BaseException) -> Mapping[int, JobEnd]:
        """What an engine that gave up leaves: its other jobs are waited for, since it waits for none."""
        while queue.living_jobs(submission, launcher_lives=False):
            if self._ending():
                self._cancel([submission])
            self._look()
            self._pause(QUEUE_S)
        self._tell_news()
        nums = range(_num_jobs(submission))
        lost = [num for num in nums if not queue.has_ended(submission.journal(num))]
        what = str(error).strip().splitlines() or ["it gave up"]
        if not any(submission.journal(num).exists() for num in nums) and not self._ending():
            raise UserError(f"{self._crew.choice}: {type(error).__name__}: {what[0].rstrip('.')}") from error
        # None lost: submitit takes a job that Slurm requeues for one that is over.
        if lost and not self._ending():
            self._say(f"{self._crew.choice}: {type(error).__name__}: {what[0]}")
            listed = ", ".join(str(num) for num in lost[:MAX_LISTED]) + (", …" if len(lost) > MAX_LISTED else "")
            self._say(f"ended before their time: jobs {listed} of {submission.path}")
        return {}

    def _blamed(
        self, submission: SubmissionFolder, jobs: Sequence[Sequence[Task]], lost: Mapping[int, JobEnd]
    ) -> dict[str, str]:
        """The runs that ended the process which was at them, by their jobs' last marks, and why."""
        blamed: dict[str, str] = {}
        for num, end in lost.items():
            events = read_journal(submission.journal(num))
            marks = [event for event in events if event["event"] in ("start", "begin", "executed")]
            at = marks[-1]["event"] if marks else None
            if end.blame and at == "begin":
                blamed[marks[-1]["run_id"]] = end.reason
            elif end.blame and at == "start":
                # Nothing was executed: it was the program that could not be compiled, or its checks.
                blamed |= {task.job.identity.run_id: end.reason for task in jobs[num]}
            else:
                self._say(f"job {num} was lost and is done again: {end.reason}")
        return blamed

    def _cancel(self, waiting: Sequence[SubmissionFolder]) -> None:
        for submission in waiting:
            if not submission.stop.exists():
                submission.stop.touch()
                queue.cancel_queued(submission)

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._stop():
            time.sleep(LOOK_S)
            self._look()

    def _ending(self) -> bool:
        return self._stop() or self._stopped is not None

    def _look(self) -> None:
        """Tells what has come since the last look; of a thousand journals on a network drive not all the time."""
        began = time.monotonic()
        if began < self._next_look:
            return
        self._tell_news()
        self._next_look = began + LOOK_SHARE * (time.monotonic() - began)

    def _tell_news(self) -> None:
        for event in self._news():
            kind = event["event"]
            if kind in find.STATUSES and event["run_id"] not in self._ended:
                self._ended.add(event["run_id"])
                self._tell(event)
            elif kind in ("warned", "refused"):
                self._say(event["text"])
            elif kind == "skipped":
                self._say(f"runs that another process has by now, left to it: {event['num_runs']}")

    def _tell(self, event: Mapping[str, Any]) -> None:
        if event["event"] == Status.done.value:
            self._reporter.advanced()
            return
        folder = self.plan.folder.run(event["num"], event["run_id"])
        self._reporter.finished(store.read_record(folder), folder)
        self._num_failed += 1
        run = self.plan.tasks[0].job.run
        if run.on_failure is OnFailure.stop:
            self._stopped = "on_failure=stop"
        elif run.max_failures is not None and self._num_failed >= run.max_failures:
            self._stopped = f"max_failures={run.max_failures}"

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._reporter.warned(text)

    def _news(self) -> Iterator[dict[str, Any]]:
        for submission, offsets in self._followed.items():
            for path in submission.journals():
                if path != submission.launcher:
                    yield from _whole_lines(path, offsets)


def _whole_lines(path: Path, offsets: dict[Path, int]) -> Iterator[dict[str, Any]]:
    """Events that have come since the last look; half a line comes with the next."""
    offset = offsets.get(path, 0)
    if path.stat().st_size <= offset:
        return
    with open(path, "rb") as file:
        file.seek(offset)
        lines, newline, _ = file.read().rpartition(b"\n")
    offsets[path] = offset + len(lines) + len(newline)
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def _num_jobs(submission: SubmissionFolder) -> int:
    return int(store.read_json(submission.about)["num_jobs"])
