"""Settings of how a run is timed, checked, tracked and distributed over processes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from runner.config.enums import ChecksDepth, ChecksMode, DistributedMode, EagerCheck, TimingMode, TrackingMode
from runner.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TimingSettings:
    """How times are measured.

    Attributes:
      mode: quick, careful, or off.
      warmup: Untimed warm-up calls, at least 1.
      min_warmup_s: Minimum seconds of warm-up.
      rounds: Number of samples.
      max_s: Seconds of warm-up, the first call included, after which one more call is enough, and of samples after
        which three are; 0 for never. Not part of a run's identity.
      min_sample_s: Minimum seconds per sample: calls are looped until it is reached; 0 means one call per sample.
      pipeline: Calls in flight for the throughput sample.
      turns: Whether a run waits until no other process of ours works on this machine; if not, its times are flagged.
        Not part of a run's identity: it changes no number, only how far to trust it.
    """

    mode: TimingMode = TimingMode.quick
    warmup: int = 2
    min_warmup_s: float = 0.0
    rounds: int = 10
    max_s: float = 2.0
    min_sample_s: float = 0.0
    pipeline: int = 10
    turns: bool = True

    def __post_init__(self) -> None:
        if self.mode is TimingMode.off:
            return
        for key, least in (("warmup", 1), ("rounds", 2), ("pipeline", 1)):
            got = getattr(self, key)
            if got < least:
                reason = "one sample has no spread" if key == "rounds" else f"at least {least} is needed"
                raise ConfigError(f"timing.{key}", got, reason, f"timing.{key}={max(least, 10)}")
        for key in ("min_warmup_s", "min_sample_s", "max_s"):
            got = getattr(self, key)
            if not (math.isfinite(got) and got >= 0):
                raise ConfigError(f"timing.{key}", got, "seconds can't be negative", f"timing.{key}=0.1")


@dataclass(frozen=True, kw_only=True)
class ChecksSettings:
    """Which checks a run gets, and what a failing one does.

    Attributes:
      mode: strict fails a run whose numbers would be wrong, warn only reports it, off checks nothing.
      depth: traced runs the checks that only trace, once per program; full runs all, and compiles for them.
      eager: Which runs compare the jitted init and apply with the eager ones: the first of each layer, the first of
        each program, or none. Eager init compiles every operation separately and costs more than the program.
    """

    mode: ChecksMode = ChecksMode.strict
    depth: ChecksDepth = ChecksDepth.traced
    eager: EagerCheck = EagerCheck.layer


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where runs are tracked besides the sweep's own files, and what is logged there.

    Attributes:
      name: wandb, tensorboard, mlflow, aim, or the tracker of any installed package (its entry point in
        `bridge_runner.trackers`).
      mode: offline (W&B runs as files in the sweep's folder), online (also uploaded), or disabled, for any tracker;
        auto is what WANDB_MODE says, else offline, and never in the settings of a run; tensorboard is name=tensorboard.
      options: What the tracker takes besides; see its page.
      project: W&B project (null: WANDB_PROJECT, else bridge-runner), or MLflow's or Aim's experiment (null: the
        sweep's name).
      entity: W&B user or team; null: WANDB_ENTITY, else the account's default.
      group: Group of every run; null: WANDB_RUN_GROUP, else the sweep's name.
      tags: Tags of every run, besides the layer's name and the device; none: those of WANDB_TAGS.
      notes: Notes of every run; null: WANDB_NOTES, else the command that shows it.
      wandb_sweep: The W&B sweep that the runs belong to; null: WANDB_SWEEP_ID, which `wandb agent` sets, else none.
      artifacts: Whether each W&B run also has its checkpoint's files, its record and a small output's table.
      artifact_max_bytes: Of a larger checkpoint, or of one that the sweep may remove, there is only a reference.
      table_max_elements: With artifacts, an output with at most this many elements is also logged as a table.
      patience_s: With online, seconds that the server may be silent at the sweep's end; in total it gets at most twice
        as many, and a quarter more for each run that arrives.
    """

    name: str = "wandb"
    mode: TrackingMode = TrackingMode.offline
    options: dict[str, Any] = field(default_factory=dict)
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    wandb_sweep: str | None = None
    artifacts: bool = False
    artifact_max_bytes: int = 2**30
    table_max_elements: int = 256
    patience_s: float = 2.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.patience_s) and self.patience_s >= 0):
            raise ConfigError(
                "tracking.patience_s", self.patience_s, "seconds can't be negative", "tracking.patience_s=2.5"
            )
        for name, such in (("artifact_max_bytes", 2**30), ("table_max_elements", 256)):
            if (got := getattr(self, name)) < 0:
                raise ConfigError(f"tracking.{name}", got, "a size can't be negative", f"tracking.{name}={such}")

    @property
    def tracker(self) -> str | None:
        """Name of the tracker; None if nothing is tracked."""
        if self.mode is TrackingMode.disabled:
            return None
        return TrackingMode.tensorboard.value if self.mode is TrackingMode.tensorboard else self.name


@dataclass(frozen=True, kw_only=True)
class DistributedSettings:
    """Which processes share a run; null values come from the environment (`experiment.distributed`).

    Attributes:
      mode: none, or jax: several, through `jax.distributed`.
      coordinator: `HOST:PORT` that the first process listens on.
      num_processes: Number of processes.
      process_id: Rank of this process, from 0.
      timeout_s: Seconds that each process waits for the others.
    """

    mode: DistributedMode = DistributedMode.none
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    timeout_s: int = 300

    def __post_init__(self) -> None:
        key = "distributed"
        if self.coordinator is not None and not re.fullmatch(r".+:\d{1,5}", self.coordinator):
            raise ConfigError(
                f"{key}.coordinator", self.coordinator, "it is HOST:PORT", f"{key}.coordinator=127.0.0.1:12345"
            )
        if self.num_processes is not None and self.num_processes < 1:
            raise ConfigError(f"{key}.num_processes", self.num_processes, "at least one", f"{key}.num_processes=2")
        if self.process_id is not None and not 0 <= self.process_id < (self.num_processes or self.process_id + 1):
            reason = f"processes are counted from 0 to {(self.num_processes or 1) - 1}"
            raise ConfigError(f"{key}.process_id", self.process_id, reason, f"{key}.process_id=0")
        if self.timeout_s < 1:
            raise ConfigError(f"{key}.timeout_s", self.timeout_s, "at least one second", f"{key}.timeout_s=300")
