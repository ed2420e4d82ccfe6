"""Tracks a sweep's runs in this process, or in worker processes."""

from __future__ import annotations

import functools
import multiprocessing.util
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from runner.config.enums import TrackingMode
from runner.config.settings.execution import TrackingSettings
from runner.records.record import Head, Record
from runner.tracking.online import OnlineTracking
from runner.tracking.preloading import PRELOADED
from runner.tracking.processes import Processes
from runner.tracking.registry import make_tracker, uses_wandb
from runner.tracking.tracker import Follow, Tracker, Tracking

# A worker takes about a second to start; fewer runs are logged sooner in this process. A lean run, without artifacts,
# is a file that takes 5 ms to write.
MIN_POOLED_RUNS, MIN_POOLED_LEAN_RUNS = 6, 12

FIX = "bridge-runner sync makes the W&B runs that are missing"

# What a tracker is made from.
Of = tuple[TrackingSettings, Path, str]


class InlineTracking:
    """Logs each run right away in this process: for few runs, where starting a process pool costs more.

    Args:
      tracker: Logs them.
      warms: Whether `warm` is worth its second: a single lean run needs nothing of W&B.
    """

    def __init__(self, tracker: Tracker, *, warms: bool = True) -> None:
        self._tracker = tracker
        self._warms = warms
        self._costs: list[tuple[str, float]] = []

    def warm(self) -> None:
        """Preloads what the first run needs."""
        if self._warms:
            self._tracker.warm()

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Lets a run be followed while it trains."""
        return self._tracker.follow(head, run_dir)

    def submit(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> None:
        """Logs one run."""
        cost_s = self._tracker.log(record, output, run_dir)
        if cost_s is not None:
            self._costs.append((record.run_id, cost_s))

    def wait(self) -> list[tuple[str, float]]:
        """Returns run id and seconds of each run since the last call."""
        costs, self._costs = self._costs, []
        return costs

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the sweep's own run."""
        self._tracker.log_sweep(name, rows)

    def close(self) -> None:
        """Closes the tracker."""
        self._tracker.close()


class PooledTracking:
    """Logs runs in worker processes: a W&B run takes 5 ms of Python that holds the GIL, with artifacts 12 to 35.

    Args:
      settings: Tracking settings of the runs.
      folder: The sweep's folder.
      sweep: The sweep's name.
      warn: Called with one sentence, at most once per sweep.
      processes: The workers.
      concludes: Whether the sweep's own run is logged here too.
    """

    def __init__(
        self,
        settings: TrackingSettings,
        folder: Path,
        sweep: str,
        warn: Callable[[str], None],
        *,
        processes: Processes,
        concludes: bool = True,
    ) -> None:
        self._processes = processes
        self._of: Of = (settings, folder, sweep)
        processes.need(PRELOADED, functools.partial(_warm, self._of, lean=not settings.artifacts))
        # Only the sweep's own run needs W&B's service if the others are lean: one process starts it, and logs that run.
        self._apart = processes.beside() if concludes and not settings.artifacts else None
        if self._apart is not None:
            self._apart.need((), functools.partial(_warm, self._of))
        self._warn = warn
        self._warned = False
        # Only this process sees the progress of a run that is still training.
        self._here = InlineTracking(make_tracker(settings, folder, sweep, self._say))
        self._followed: dict[str, Follow] = {}
        self._sent: list[tuple[str, Future[tuple[float | None, list[str]]]]] = []

    def warm(self) -> None:
        """Does nothing: the workers preload when they start."""

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Lets a run be followed while it trains, in this process."""
        if follow := self._here.follow(head, run_dir):
            self._followed[head.run_id] = follow
        return follow

    def submit(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> None:
        """Queues one run; a followed run is finished in this process."""
        follow = self._followed.pop(record.run_id, None)
        if follow is not None and follow.folder is not None:
            self._here.submit(record, output, run_dir)
            return
        self._sent.append((record.run_id, self._processes.submit(_log, self._of, record, dict(output), run_dir)))

    def wait(self) -> list[tuple[str, float]]:
        """Waits for all queued runs; returns run id and seconds of each."""
        sent, self._sent = self._sent, []
        if self._apart is not None:
            self._apart.wait()
        costs = self._here.wait()
        for run_id, future in sent:
            try:
                cost_s, sentences = future.result()
            except BrokenProcessPool as error:
                cost_s, sentences = None, [_died(error)]
            for sentence in sentences:
                self._say(sentence)
            if cost_s is not None:
                costs.append((run_id, cost_s))
        return costs

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the sweep's own run in a worker."""
        try:
            (self._apart or self._processes).submit(_log_sweep, self._of, name, list(rows)).result()
        except BrokenProcessPool as error:
            self._say(_died(error))

    def close(self) -> None:
        """Closes the tracker of this process; those of the workers close with them."""
        self._here.close()
        if self._apart is not None:
            self._apart.close()

    def _say(self, sentence: str) -> None:
        if not self._warned:
            self._warn(sentence)
        self._warned = True


def make_tracking(
    settings: TrackingSettings,
    folder: Path,
    sweep: str,
    warn: Callable[[str], None],
    *,
    num_runs: int,
    processes: Processes,
    sends: bool = True,
) -> Tracking:
    """Makes the tracking for `num_runs` runs: in `processes` if these pay off, and an upload process if requested.

    A sweep's job (`sends` False) only writes files: its machine may have no network; the submitting process uploads,
    and logs the sweep's own run.
    """
    made: InlineTracking | PooledTracking
    least = MIN_POOLED_RUNS if settings.artifacts else MIN_POOLED_LEAN_RUNS
    if not uses_wandb(settings) or num_runs < least:
        # Only the sweep's own run, and artifacts, need wandb.
        warms = settings.artifacts or num_runs > 1 or not uses_wandb(settings)
        made = InlineTracking(make_tracker(settings, folder, sweep, warn), warms=warms)
    else:
        made = PooledTracking(settings, folder, sweep, warn, processes=processes, concludes=sends)
    if settings.mode is not TrackingMode.online or not uses_wandb(settings) or not sends:
        return made
    return OnlineTracking(made, folder, warn, patience_s=settings.patience_s, at_once=num_runs > 1)


def _died(error: BrokenProcessPool) -> str:
    return f"a tracking process died: {error}; {FIX}"


# In a worker: the tracker of a sweep's folder, and what it has to say.
_TRACKERS: dict[Path, tuple[Tracker, list[str]]] = {}


def _tracker(of: Of) -> tuple[Tracker, list[str]]:
    _, folder, _ = of
    if folder not in _TRACKERS:
        sentences: list[str] = []
        tracker = make_tracker(*of, sentences.append)
        # When the worker exits, its service is still writing: wait for it.
        multiprocessing.util.Finalize(None, tracker.close, exitpriority=10)
        _TRACKERS[folder] = tracker, sentences
    return _TRACKERS[folder]


def _warm(of: Of, *, lean: bool = False) -> None:
    tracker, _ = _tracker(of)
    if not lean:
        tracker.warm()


def _log(of: Of, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> tuple[float | None, list[str]]:
    tracker, sentences = _tracker(of)
    cost_s = tracker.log(record, output, run_dir)
    new, sentences[:] = list(sentences), []
    return cost_s, new


def _log_sweep(of: Of, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    _tracker(of)[0].log_sweep(name, rows)
