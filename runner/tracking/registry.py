"""Which tracker the settings name, and whether its package is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from runner.config.enums import TrackingMode
from runner.config.settings.execution import TrackingSettings
from runner.errors import UserError
from runner.tracking.tracker import NullTracker, Tracker


def require(settings: TrackingSettings) -> None:
    """Checks that the tracker selected by `settings` can be created.

    Raises:
      UserError: It needs a package that is not installed.
    """
    if settings.mode is TrackingMode.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError("tensorboardX is not installed", "pip install 'bridge-runner[tensorboard]'")


def make_tracker(settings: TrackingSettings, folder: Path, sweep: str, warn: Callable[[str], None]) -> Tracker:
    """Creates the tracker selected by `settings`.

    Args:
      settings: The tracker's type, and the settings of its runs.
      folder: The sweep's folder.
      sweep: The sweep's name, used as the group of its runs.
      warn: Called with one sentence at the first failure.
    """
    match settings.mode:
        case TrackingMode.disabled:
            return NullTracker()
        case TrackingMode.tensorboard:
            from runner.tracking.tensorboard_tracker import TensorboardTracker

            return TensorboardTracker(folder, warn)
        case TrackingMode.offline | TrackingMode.online | TrackingMode.auto:
            from runner.tracking.wandb_tracker import WandbTracker

            return WandbTracker(settings, folder, sweep, warn)
