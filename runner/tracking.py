"""What a tracker is: where runs are shown beside the sweep's own files.

A tracker is a file with its class, and its line in `runner.tracking_pool.make_tracker`. It holds nothing of the process
that composed the sweep, so that a worker can make one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runner.records import Record


class Tracker(Protocol):
    """Where runs are shown beside the sweep's own files."""

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Makes one tracked run; the seconds it took, or None where none was made. Never raises."""

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes the run of the whole sweep, with its table. Never raises."""

    def close(self) -> None:
        """Ends what runs in the background."""


class Tracking(Protocol):
    """Where a sweep hands its records over; see `runner.tracking_pool`."""

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

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """None: no run is made."""
        return None

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes nothing."""

    def close(self) -> None:
        """Ends nothing."""
