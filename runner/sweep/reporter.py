"""What a sweep reports as it goes, and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runner.records.paths import RunFolder
from runner.records.record import Record
from runner.sweep.plan import Plan


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
class SweepOutcome:
    """How a sweep ended.

    Attributes:
      num_failed: How many of its runs failed.
      interrupted: True if it was asked to stop.
      stopped: The failure policy that ended it early, if one did.
    """

    num_failed: int
    interrupted: bool
    stopped: str | None
