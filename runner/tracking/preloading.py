"""What processes that log runs to W&B import: known by name before any of it, or NumPy, is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.config import wandb_environment
from runner.config.enums import TrackingMode
from runner.errors import ConfigError

# What W&B imports in `init` and for a row of history; pandas may not be installed.
LOADED_BY_FIRST_RUN = ("wandb.sdk.launch.inputs.internal", "pandas")

# Importing W&B takes most of a second.
PRELOADED = ("wandb", *LOADED_BY_FIRST_RUN, "runner.tracking.pool", "runner.tracking.wandb_tracker")


def uses_wandb(tracking: Mapping[str, Any]) -> bool:
    """Whether runs are to be W&B runs by the settings of a composed config; False where these are refused later."""
    try:
        filled = wandb_environment.filled(tracking)
    except ConfigError:
        return False
    return filled.get("name") == wandb_environment.WANDB and filled.get("mode") != TrackingMode.disabled.value
