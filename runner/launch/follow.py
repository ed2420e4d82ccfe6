"""Follows the journals of a sweep's jobs and reports their events as if the runs were local."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.config.enums import OnFailure
from runner.records import find, store
from runner.records.disk import plain_files
from runner.records.journal import from_line
from runner.records.paths import SubmissionFolder
from runner.records.record import Status
from runner.sweep.plan import Plan
from runner.sweep.programs import COMPILED, COMPILING
from runner.sweep.reporter import Reporter, SweepOutcome

# Between two polls of the journals.
LOOK_S = 0.2
LOOK_SHARE = 10  # and at least this many times as long as a poll takes


class Follower:
    """Follows the jobs of one sweep.

    Args:
      plan: The sweep's; replaced when it grows.
      reporter: Notified of everything as it happens.
      stop: Polled; True asks the sweep to end.

    Attributes:
      ended: The runs that have ended since, by id.
    """

    def __init__(self, plan: Plan, reporter: Reporter, stop: Callable[[], bool]) -> None:
        self.plan = plan
        self.ended: set[str] = set()
        self._reporter = reporter
        self._stop = stop
        self._followed: dict[SubmissionFolder, dict[Path, int]] = {}
        self._said: set[str] = set()
        self._num_failed = 0
        self._compiled: set[str] = set()
        self._programs: set[str] = set()
        self._counted: Plan | None = None
        self._next_look = 0.0
        self._stopped: str | None = None

    def follow(self, numbers: Sequence[int] | Mapping[int, Any]) -> None:
        """Starts to report new events in the journals of these submissions."""
        for number in numbers:
            submission = self.plan.folder.submission(number)
            self._followed[submission] = {path: path.stat().st_size for path in submission.journals()}

    def add(self, submission: SubmissionFolder) -> None:
        """Starts to report all events in the journals of this submission, including earlier ones."""
        self._followed[submission] = {}

    def outcome(self) -> SweepOutcome:
        """How it ended."""
        interrupted = self._stop()
        return SweepOutcome(num_failed=self._num_failed, interrupted=interrupted, stopped=self._stopped)

    def pause(self, seconds: float) -> None:
        """Follows for this long, unless the user asks to end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._stop():
            time.sleep(LOOK_S)
            self.look()

    def ending(self) -> bool:
        """Whether no further run may start."""
        return self._stop() or self._stopped is not None

    def look(self) -> None:
        """Reports new events, rate-limited: there may be a thousand journals on a network drive."""
        began = time.monotonic()
        if began < self._next_look:
            return
        self.tell_news()
        self._next_look = began + LOOK_SHARE * (time.monotonic() - began)

    def tell_news(self) -> None:
        """Reports new events."""
        for event in self._news():
            kind = event["event"]
            if kind in find.STATUSES and event["run_id"] not in self.ended:
                self.ended.add(event["run_id"])
                self._tell(event)
            elif kind in (COMPILING, COMPILED):
                self._count_compiled({event["program_id"]} if kind == COMPILED else set())
            elif kind in ("warned", "refused"):
                self.say(event["text"])
            elif kind == "skipped":
                self.say(f"runs that another process has by now, left to it: {event['num_runs']}")

    def _count_compiled(self, compiled: set[str]) -> None:
        """Reports how many of the programs to compile are, each counted once though several jobs may compile it."""
        if self._counted is not self.plan:  # it grew
            self._counted = self.plan
            self._programs = {task.job.identity.program_id for task in self.plan.pending()}
        self._compiled |= compiled
        self._reporter.compiled(len(self._compiled & self._programs), len(self._programs))

    def _tell(self, event: Mapping[str, Any]) -> None:
        if event["event"] == Status.done.value:
            self._reporter.advanced()
            return
        folder = self.plan.folder.run(event["num"], event["run_id"])
        self._reporter.finished(store.read_record(folder), folder)
        self._num_failed += 1
        run = self.plan.tasks[0].job.run
        if run.failure.action is OnFailure.stop:
            self._stopped = "failure.action=stop"
        elif run.failure.max is not None and self._num_failed >= run.failure.max:
            self._stopped = f"failure.max={run.failure.max}"

    def say(self, text: str) -> None:
        """Warns, once."""
        if text not in self._said:
            self._said.add(text)
            self._reporter.warned(text)

    def _news(self) -> Iterator[dict[str, Any]]:
        for submission, offsets in self._followed.items():
            for path in submission.journals():
                if path != submission.launcher:
                    yield from _whole_lines(path, offsets)


def _whole_lines(path: Path, offsets: dict[Path, int]) -> Iterator[dict[str, Any]]:
    """Events since the last poll; an incomplete line is left to the next one."""
    offset = offsets.get(path, 0)
    if path.stat().st_size <= offset:
        return
    with plain_files.opened(path) as file:
        file.seek(offset)
        lines, newline, _ = file.read().rpartition(b"\n")
    offsets[path] = offset + len(lines) + len(newline)
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            yield from_line(line)
