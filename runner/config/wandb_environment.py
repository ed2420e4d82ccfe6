"""What W&B's own environment variables mean here: they set what the config leaves open, and the config wins."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from runner.config.enums import TrackingMode
from runner.config.settings.execution import TrackingSettings
from runner.errors import ConfigError, literal

WANDB = "wandb"

# What WANDB_MODE may say, and the tracking mode that it means.
MODES = {
    "online": TrackingMode.online,
    "run": TrackingMode.online,
    "shared": TrackingMode.online,
    "offline": TrackingMode.offline,
    "dryrun": TrackingMode.offline,
    "disabled": TrackingMode.disabled,
}

# Variables that stand for a setting of `tracking`, by its name.
VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES",
    "wandb_sweep": "WANDB_SWEEP_ID",
}

# Variables that would name, place or configure our runs over our heads: a surrounding agent's and launch's own, those
# of the caller's one run, and those that are in the settings already.
HIDDEN = (
    *VARIABLES.values(),
    *("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_CONFIG_PATHS", "WANDB_CONFIG"),
    *("WANDB_LAUNCH", "WANDB_LAUNCH_CONFIG_PATH", "WANDB_ARTIFACTS"),
    *("WANDB_NAME", "WANDB_JOB_TYPE", "WANDB_RESUME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM", "WANDB_REINIT"),
    *("WANDB_DIR", "WANDB_ROOT_DIR", "WANDB_MODE", "WANDB_DISABLED", "WANDB_SILENT", "WANDB_QUIET"),
)


def filled(tracking: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """`tracking` of a composed config, with what it leaves open taken from the environment.

    Args:
      tracking: The settings as plain data; `mode: auto` and a null or empty value leave it open.
      environ: The environment's variables.

    Raises:
      ConfigError: WANDB_MODE says something that W&B has no mode for.
    """
    if tracking.get("name", WANDB) != WANDB:
        offline = {"mode": TrackingMode.offline.value}
        return dict(tracking) | (offline if tracking.get("mode") == TrackingMode.auto.value else {})
    told = {name: _value(name, environ[key]) for name, key in VARIABLES.items() if environ.get(key)}
    data = dict(tracking) | {name: value for name, value in told.items() if not tracking.get(name)}
    if data.get("mode") == TrackingMode.auto.value:
        default = TrackingMode.online if is_agents(environ) else TrackingMode.offline
        data["mode"] = (_mode(environ) or default).value
    return data


def is_agents(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `wandb agent` started this process: its server then waits for what comes of it."""
    return all(environ.get(name) for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"))


def overruled(tracking: TrackingSettings, environ: Mapping[str, str] = os.environ) -> list[str]:
    """One sentence for each variable that the config wins over."""
    said: list[str] = []
    if tracking.name != WANDB:
        return said
    if _mode(environ, strict=False) not in (None, tracking.mode):
        name = "WANDB_MODE" if environ.get("WANDB_MODE") else "WANDB_DISABLED"
        said.append(f"tracking.mode={tracking.mode.value} wins over {name}={environ[name]}")
    if tracking.mode not in (TrackingMode.offline, TrackingMode.online):
        return said
    for name, key in VARIABLES.items():
        got = getattr(tracking, name)
        if environ.get(key) and _value(name, environ[key]) != got:
            said.append(f"tracking.{name}={literal(got)} wins over {key}={environ[key]}")
    if environ.get("WANDB_RUN_ID"):
        said.append(f"each run has an id of its own, not WANDB_RUN_ID={environ['WANDB_RUN_ID']}")
    elif environ.get("WANDB_DIR"):  # not an agent's
        said.append(f"its files stay in the sweep's folder, not in WANDB_DIR={environ['WANDB_DIR']} (see output_root)")
    return said


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Takes the variables that are not for our W&B runs out of this process's environment meanwhile."""
    kept = {name: os.environ.pop(name) for name in HIDDEN if name in os.environ}
    try:
        yield
    finally:
        for name in HIDDEN:
            os.environ.pop(name, None)  # wandb sets some itself
        os.environ.update(kept)


def _mode(environ: Mapping[str, str], *, strict: bool = True) -> TrackingMode | None:
    word = environ.get("WANDB_MODE", "").lower()
    if word and strict and word not in MODES:
        reason = f"W&B's modes are {', '.join(MODES)}"
        raise ConfigError("WANDB_MODE", environ["WANDB_MODE"], reason, "WANDB_MODE=offline, or tracking=offline")
    if not word and environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes"):
        return TrackingMode.disabled
    return MODES.get(word)


def _value(name: str, text: str) -> Any:
    return [tag.strip() for tag in text.split(",") if tag.strip()] if name == "tags" else text
