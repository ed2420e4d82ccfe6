"""Names of trackers: ours, and those of installed packages that have an entry point in `GROUP`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

GROUP = "bridge_runner.trackers"

# Ours, as in pyproject.toml: found without reading what every installed package has, which takes up to 0.1 s.
OWN: Mapping[str, str] = {
    "aim": "runner.tracking.aim_tracker:AimTracker",
    "mlflow": "runner.tracking.mlflow_tracker:MlflowTracker",
    "tensorboard": "runner.tracking.tensorboard_tracker:TensorboardTracker",
    "wandb": "runner.tracking.wandb_tracker:WandbTracker",
}


def installed() -> dict[str, importlib.metadata.EntryPoint]:
    """The entry point of every tracker by name; ours win."""
    found = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    return found | {name: own(name) for name in OWN}


def own(name: str) -> importlib.metadata.EntryPoint:
    """The entry point of one of ours."""
    return importlib.metadata.EntryPoint(name, OWN[name], GROUP)
