"""What a tracker is: where runs are shown beside the sweep's own files.

A tracker is a file with its class, and its line in `runner.tracking_pool.make_tracker`. It holds nothing of the process
that composed the sweep, so that a worker can make one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runner.records.record import Head, Record


class Follow(Protocol):
    """Where the losses of a run are shown while it trains. Never raises."""

    @property
    def folder(self) -> Path | None:
        """The run's files, which grow; None before it is told of anything, and where that went wrong."""

    def tell(self, first_step: int, losses: Sequence[float]) -> None:
        """Shows the losses of the steps from `first_step` on."""

    def end(self) -> None:
        """The run trains no more, and is timed next: nothing of ours may run meanwhile."""


class Tracker(Protocol):
    """Where runs are shown beside the sweep's own files."""

    def warm(self) -> None:
        """Loads what the first run would load: may be called in another thread, before that run. Never raises."""

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Where a run that is to train can be followed till it is logged; None where it can't."""

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Makes one tracked run; the seconds it took, or None where none was made. Never raises."""

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes the run of the whole sweep, with its table. Never raises."""

    def close(self) -> None:
        """Ends what runs in the background."""


class Tracking(Protocol):
    """Where a sweep hands its records over; see `runner.tracking_pool`."""

    def warm(self) -> None:
        """Loads what the first run would load, and is not loaded beside; never raises."""

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Where a run that is to train can be followed till it is submitted; None where it can't."""

    def submit(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> None:
        """Queues one run; may return before it is made."""

    def wait(self) -> Sequence[tuple[str, float]]:
        """Waits until all is made and nothing of ours runs; run id and seconds of each run since the last call."""

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes the run of the whole sweep."""

    def close(self) -> None:
        """Ends, after what was queued."""


class NullTracker:
    """Tracks nothing."""

    def warm(self) -> None:
        """Loads nothing."""

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """None: nobody looks."""
        return None

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """None: no run is made."""
        return None

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes nothing."""

    def close(self) -> None:
        """Ends nothing."""
