"""The events that a sweep reports while it runs, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runner.records.paths import RunFolder
from runner.records.record import Record
from runner.sweep.plan import Plan


class Reporter(Protocol):
    """Receives the events of a sweep."""

    def started(self, plan: Plan, num_pending: int) -> None:
        """The sweep starts."""

    def compiled(self, num: int, total: int) -> None:
        """`num` of the `total` programs to compile are compiled; called in any thread."""

    def finished(self, record: Record, folder: RunFolder) -> None:
        """A run is done or has failed, and is on disk."""

    def advanced(self) -> None:
        """A run is done. Called alone for a run of another process, whose record is not read."""

    def warned(self, text: str) -> None:
        """The sweep continues without something that was requested."""


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """How a sweep ended.

    Attributes:
      num_failed: How many of its runs failed.
      interrupted: True if it was asked to stop.
      stopped: The failure policy that ended it early, if any.
    """

    num_failed: int
    interrupted: bool
    stopped: str | None
