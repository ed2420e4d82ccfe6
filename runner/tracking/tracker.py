"""The tracker interface: trackers show runs in addition to the sweep's own files.

A tracker is found by its entry point, see `runner.tracking.registry`: no file of ours knows it. It derives from
`NullTracker`, which does nothing, and holds no state of the process that composed the sweep: each job creates its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runner.records.record import Head, Record


class Follow(Protocol):
    """Shows a run's losses while it trains. Never raises."""

    @property
    def folder(self) -> Path | None:
        """The run's growing files; None before the first losses, and after a failure."""

    def tell(self, first_step: int, losses: Sequence[float]) -> None:
        """Shows the losses of the steps from `first_step` on."""

    def end(self) -> None:
        """Training is over and timing comes next: stops all background work."""


class Tracker(Protocol):
    """Shows runs in addition to the sweep's own files."""

    def warm(self) -> None:
        """Preloads what the first run needs; may be called from another thread before that run. Never raises."""

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Lets a training run be followed until it is logged; None if unsupported."""

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Logs one run; returns the seconds taken, or None if no run was created. Never raises."""

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the sweep's own run, with its table. Never raises."""

    def close(self) -> None:
        """Stops all background work."""


class Tracking(Protocol):
    """Receives a sweep's records; see `runner.tracking.pool`."""

    def warm(self) -> None:
        """Preloads what the first run needs, unless workers do; never raises."""

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Lets a training run be followed until it is submitted; None if unsupported."""

    def submit(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> None:
        """Queues one run; may return before it is logged."""

    def wait(self) -> Sequence[tuple[str, float]]:
        """Waits until all runs are logged and background work is idle; run id and seconds of each since the last."""

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the sweep's own run."""

    def close(self) -> None:
        """Shuts down once the queue is done."""


class NullTracker:
    """Tracks nothing."""

    def warm(self) -> None:
        """Does nothing."""

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Returns None: nothing is shown."""
        return None

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Returns None: no run is created."""
        return None

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs nothing."""

    def close(self) -> None:
        """Closes nothing."""


class Attempts:
    """What a tracker tries: a replica, so whatever is raised, the run itself is well.

    Args:
      program: The tracker's program, for the sentence.
      warn: Called with one sentence at the first failure.
    """

    def __init__(self, program: str, warn: Callable[[str], None]) -> None:
        self._program = program
        self._warn = warn
        self._warned = False

    def succeeds(self, name: str, call: Callable[[], object]) -> bool:
        """Whether `call`, which writes the run `name`, raises nothing."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - see above
            if not self._warned:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._warn(f"{self._program} run {name} is missing or incomplete: {reason}")
            self._warned = True
            return False
        return True
