"""Which tracker the settings name: one of ours, or one of any installed package.

A tracker is an entry point in the group `bridge_runner.trackers`: a class or function that takes the settings, the
sweep's folder, its name and `warn`, and gives a `Tracker`. A stranger's may raise: the sweep goes on.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.config import tracker_names
from runner.config.settings.execution import TrackingSettings
from runner.errors import ConfigError, UserError, nearest
from runner.records.record import Head, Record
from runner.tracking.tracker import Follow, NullTracker, Tracker

WANDB = "wandb"

# What ours need, and the extra that has it.
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "aim": "aim"}


def uses_wandb(settings: TrackingSettings) -> bool:
    """Whether runs are tracked in W&B: files that can be uploaded, costly enough for worker processes."""
    return settings.tracker == WANDB


def require(settings: TrackingSettings) -> None:
    """Checks that the tracker selected by `settings` can be created.

    Raises:
      ConfigError: No installed package has it, or its package can't be imported.
      UserError: It needs a package that is not installed.
    """
    name = settings.tracker
    package = PACKAGES.get(name or "")
    if package and importlib.util.find_spec(package) is None:
        raise UserError(f"{package} is not installed", f"pip install 'bridge-runner[{name}]'")
    if name is not None:
        _factory(name)


def make_tracker(settings: TrackingSettings, folder: Path, sweep: str, warn: Callable[[str], None]) -> Tracker:
    """Creates the tracker selected by `settings`.

    Args:
      settings: The tracker's name, and the settings of its runs.
      folder: The sweep's folder.
      sweep: The sweep's name, used as the group of its runs.
      warn: Called with one sentence at the first failure.
    """
    name = settings.tracker
    if name is None:
        return NullTracker()
    if name in tracker_names.OWN:
        made: Tracker = _factory(name)(settings, folder, sweep, warn)
        return made
    return GuardedTracker(name, lambda: _factory(name)(settings, folder, sweep, warn), warn)


def look(settings: TrackingSettings, folder: Path) -> str | None:
    """The command that shows the sweep's runs, if the tracker's class has a function `look` of the same arguments."""
    name = settings.tracker
    if name is None:
        return None
    shown = getattr(_factory(name), "look", None)
    return None if shown is None else str(shown(settings, folder))


class GuardedTracker:
    """A stranger's tracker, whose errors are reported once and never raised.

    Args:
      name: Its name.
      make: Creates it.
      warn: Called with one sentence at the first failure.
    """

    def __init__(self, name: str, make: Callable[[], Tracker], warn: Callable[[str], None]) -> None:
        self._name = name
        self._warn = warn
        self._warned = False
        self._tracker: Tracker = NullTracker()
        self._made = self._tried(lambda: setattr(self, "_tracker", make()))

    def warm(self) -> None:
        """Preloads what the first run needs."""
        self._tried(self._tracker.warm)

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Returns None: what goes wrong while a run trains would go wrong in the run."""
        return None

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Logs one run; returns the seconds taken, whatever the tracker returns, or None if it raised."""
        started = time.perf_counter()
        logged = self._made and self._tried(lambda: self._tracker.log(record, output, run_dir))
        return time.perf_counter() - started if logged else None

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the sweep's own run."""
        self._tried(lambda: self._tracker.log_sweep(name, rows))

    def close(self) -> None:
        """Stops all background work."""
        self._tried(self._tracker.close)

    def _tried(self, call: Callable[[], object]) -> bool:
        """Whether `call` raised nothing."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever it raises, the run itself is well
            if not self._warned:
                self._warn(f"tracker {self._name}: runs are missing or incomplete: {type(error).__name__}: {error}")
            self._warned = True
            return False
        return True


def _factory(name: str) -> Any:
    """What makes a tracker of this name.

    Raises:
      ConfigError: No installed package has it, or it can't be imported.
    """
    if name in tracker_names.OWN:
        return tracker_names.own(name).load()
    found = tracker_names.installed()
    if name not in found:
        close = nearest(name, sorted(found))
        there = f"no installed package has such a tracker; there are {', '.join(sorted(found))}"
        raise ConfigError("tracking.name", name, there, f"tracking.name={close or WANDB}")
    try:
        return found[name].load()
    except Exception as error:
        reason = f"{found[name].value} can't be imported: {type(error).__name__}: {error}"
        raise ConfigError("tracking.name", name, reason, f"python -c 'import {found[name].module}'") from error
