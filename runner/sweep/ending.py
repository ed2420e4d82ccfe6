"""Whether a sweep ends early: interrupted, stopped by its failure policy, or out of disk space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.config.enums import OnFailure
from runner.config.settings.run import Run
from runner.errors import StorageError
from runner.records.record import Record, Status
from runner.sweep.reporter import SweepOutcome


@dataclass(kw_only=True)
class Ending:
    """What may end a sweep early.

    Attributes:
      stop: Polled; True ends the sweep.
      num_failed: How many of its runs failed.
      interrupted: Whether `stop` was ever true.
      stopped: The failure policy that ended it, if any.
      broken: Why training steps can't be written; raised after all executed runs are written.
    """

    stop: Callable[[], bool] = lambda: False
    num_failed: int = 0
    interrupted: bool = False
    stopped: str | None = None
    broken: StorageError | None = None

    def reached(self) -> bool:
        """Whether no further run may start."""
        self.interrupted = self.interrupted or self.stop()
        return self.interrupted or self.stopped is not None or self.broken is not None

    @property
    def only_interrupted(self) -> bool:
        """Whether nothing but `stop` ends the sweep."""
        return self.interrupted and self.stopped is None and self.broken is None

    def count(self, run: Run, record: Record) -> None:
        """Counts a failed run; the failure policy may then end the sweep."""
        self.num_failed += record.status is Status.failed
        if self.num_failed and run.failure.action is OnFailure.stop:
            self.stopped = "failure.action=stop"
        elif run.failure.max is not None and self.num_failed >= run.failure.max:
            self.stopped = f"failure.max={run.failure.max}"

    def outcome(self) -> SweepOutcome:
        """How the sweep ended."""
        return SweepOutcome(num_failed=self.num_failed, interrupted=self.interrupted, stopped=self.stopped)
