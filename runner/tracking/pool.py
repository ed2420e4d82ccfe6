"""Where a sweep's runs are tracked: in this process, or in processes of their own beside it."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import importlib.util
import multiprocessing
import multiprocessing.util
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.config.enums import TrackingMode
from runner.config.run_settings import TrackingSettings
from runner.errors import UserError
from runner.records.record import Head, Record
from runner.tracking.online import OnlineTracking
from runner.tracking.tracker import Follow, NullTracker, Tracker, Tracking
from runner.tracking.wandb_tracker import LOADED_BY_FIRST_RUN

# A worker starts in about a second; fewer runs are made sooner in this process.
MIN_POOLED_RUNS = 6

# Loading W&B takes most of that second: one process loads it, and the workers are forked from there.
PRELOADED = ("wandb", *LOADED_BY_FIRST_RUN, "runner.tracking.pool", "runner.tracking.wandb_tracker")

MEND = "bridge-runner sync makes the W&B runs that are missing"

# Only a W&B run costs enough for processes of its own.
WANDB_MODES = (TrackingMode.offline, TrackingMode.online)


class InlineTracking:
    """Makes each run as it comes, in this process: for a single run, where a pool of processes costs more to start."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._costs: list[tuple[str, float]] = []

    def warm(self) -> None:
        """Loads what the first run would load."""
        self._tracker.warm()

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Where a run can be followed while it trains."""
        return self._tracker.follow(head, run_dir)

    def submit(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> None:
        """Makes one run."""
        cost_s = self._tracker.log(record, output, run_dir)
        if cost_s is not None:
            self._costs.append((record.run_id, cost_s))

    def wait(self) -> list[tuple[str, float]]:
        """Run id and seconds of each run since the last call."""
        costs, self._costs = self._costs, []
        return costs

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes the run of the sweep."""
        self._tracker.log_sweep(name, rows)

    def close(self) -> None:
        """Ends the tracker."""
        self._tracker.close()


class PooledTracking:
    """Makes runs in processes of their own: a W&B run is 12-25 ms of Python that holds the lock.

    Args:
      settings: What the runs carry.
      folder: The sweep's folder.
      sweep: Its name.
      warn: Takes one sentence, once for the whole sweep.
      num_processes: Workers; they start at once, so that they are there when the first run is.
    """

    def __init__(
        self, settings: TrackingSettings, folder: Path, sweep: str, warn: Callable[[str], None], *, num_processes: int
    ) -> None:
        # Not fork: JAX already has threads.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        self._pool = concurrent.futures.ProcessPoolExecutor(
            num_processes,
            mp_context=context,
            initializer=_start_worker,
            initargs=(settings, folder, sweep, dict(os.environ)),
        )
        self._warn = warn
        self._warned = False
        # Only here it is known how a run goes that still trains.
        self._here = InlineTracking(make_tracker(settings, folder, sweep, self._say))
        self._followed: dict[str, Follow] = {}
        self._sent: list[tuple[str, concurrent.futures.Future[tuple[float | None, list[str]]]]] = []
        # Beside: the first submit waits until all is loaded.
        starter = concurrent.futures.ThreadPoolExecutor(1)
        self._sent.append(("", starter.submit(self._warm, num_processes)))
        starter.shutdown(wait=False)

    def warm(self) -> None:
        """Nothing: the workers do it from their start on."""

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Where a run can be followed while it trains, in this process."""
        if follow := self._here.follow(head, run_dir):
            self._followed[head.run_id] = follow
        return follow

    def submit(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> None:
        """Queues one run; one that was followed is ended here."""
        follow = self._followed.pop(record.run_id, None)
        if follow is not None and follow.folder is not None:
            self._here.submit(record, output, run_dir)
            return
        future: concurrent.futures.Future[tuple[float | None, list[str]]]
        try:
            future = self._pool.submit(_log_in_worker, record, dict(output), run_dir)
        except concurrent.futures.process.BrokenProcessPool as error:
            future = concurrent.futures.Future()
            future.set_exception(error)
        self._sent.append((record.run_id, future))

    def wait(self) -> list[tuple[str, float]]:
        """Waits for all that was queued; run id and seconds of each."""
        sent, self._sent = self._sent, []
        costs = self._here.wait()
        for run_id, future in sent:
            try:
                cost_s, sentences = future.result()
            except concurrent.futures.process.BrokenProcessPool as error:
                cost_s, sentences = None, [f"a tracking process died: {error}; {MEND}"]
            for sentence in sentences:
                self._say(sentence)
            if run_id and cost_s is not None:
                costs.append((run_id, cost_s))
        return costs

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes the run of the sweep in a worker."""
        with contextlib.suppress(concurrent.futures.process.BrokenProcessPool):
            self._pool.submit(_log_sweep_in_worker, name, list(rows)).result()

    def close(self) -> None:
        """Ends the workers, after what was queued."""
        self._pool.shutdown(wait=True)
        self._here.close()

    def _warm(self, num_processes: int) -> tuple[None, list[str]]:
        for future in [self._pool.submit(_warm_worker) for _ in range(num_processes)]:
            future.result()
        return None, []

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
    num_processes: int,
    sends: bool = True,
) -> Tracking:
    """Where `num_runs` runs go: processes of their own where that pays, and one more that sends them where asked.

    A job of a sweep (`sends` False) makes files only: its machine may have no network, and who submitted it sends.
    """
    made: InlineTracking | PooledTracking
    if settings.mode not in WANDB_MODES or num_runs < MIN_POOLED_RUNS:
        made = InlineTracking(make_tracker(settings, folder, sweep, warn))
    else:
        made = PooledTracking(settings, folder, sweep, warn, num_processes=num_processes)
    if settings.mode is not TrackingMode.online or not sends:
        return made
    return OnlineTracking(made, folder, warn, patience_s=settings.patience_s, at_once=num_runs > 1)


def require(settings: TrackingSettings) -> None:
    """Judges whether the tracker that `settings` ask for can be made.

    Raises:
      UserError: It needs a package that is not installed.
    """
    if settings.mode is TrackingMode.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError("tensorboardX is not installed", "pip install 'bridge-runner[tensorboard]'")


def make_tracker(settings: TrackingSettings, folder: Path, sweep: str, warn: Callable[[str], None]) -> Tracker:
    """The tracker that `settings` ask for.

    Args:
      settings: Which, and what its runs carry.
      folder: The sweep's folder.
      sweep: The sweep's name, the group of its runs.
      warn: Takes one sentence, the first time that something fails.
    """
    match settings.mode:
        case TrackingMode.disabled:
            return NullTracker()
        case TrackingMode.tensorboard:
            from runner.tracking.tensorboard_tracker import TensorboardTracker

            return TensorboardTracker(folder, warn)
        case TrackingMode.offline | TrackingMode.online:
            from runner.tracking.wandb_tracker import WandbTracker

            return WandbTracker(settings, folder, sweep, warn)


_WORKER: dict[str, Any] = {}


def _start_worker(settings: TrackingSettings, folder: Path, sweep: str, environ: Mapping[str, str]) -> None:
    # The process that they are forked from may be older than this sweep.
    os.environ.clear()
    os.environ.update(environ)
    # Ctrl-C reaches every process of the terminal; what ends the sweep is the parent's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A worker must not outlive a parent that was killed: it would wait for runs for ever, deaf to SIGTERM.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # A parent that has used wandb hands its service on; sharing it would make the workers wait for one another.
    os.environ.pop("WANDB_SERVICE", None)
    sentences: list[str] = []
    _WORKER["sentences"] = sentences
    _WORKER["tracker"] = make_tracker(settings, folder, sweep, sentences.append)
    # At the worker's end its service still writes: wait for it.
    multiprocessing.util.Finalize(None, _WORKER["tracker"].close, exitpriority=10)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _warm_worker() -> None:
    _WORKER["tracker"].warm()


def _log_in_worker(record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> tuple[float | None, list[str]]:
    cost_s = _WORKER["tracker"].log(record, output, run_dir)
    sentences, _WORKER["sentences"][:] = list(_WORKER["sentences"]), []
    return cost_s, sentences


def _log_sweep_in_worker(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    _WORKER["tracker"].log_sweep(name, rows)
