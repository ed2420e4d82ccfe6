"""Settings of a sweep and of the processes that run it: its grid, failures, search, devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.config.enums import Direction, OnFailure, Retry
from runner.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """How one run is spread over several devices.

    Attributes:
      axes: Names and sizes of the axes of a device mesh, `{data: 2, model: 4}`, in order; null: one device.
      input: The mesh axis of every axis of x (a name, several names, or null), `[data,null]`; null shards the first
        axis of x along the first mesh axis if that divides it, unless x has no other axis.
      rules: The mesh axis (or axes, or null) that a variable's axis name maps to: `{embed: model}`.
    """

    axes: Any = None  # dict[str, int] | None: OmegaConf can't replace a typed null with a dict
    input: list[Any] | None = None
    rules: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.axes is not None:
            self._check_axes()
        elif self.input is not None or self.rules:
            key = "rules" if self.input is None else "input"
            raise ConfigError(f"mesh.{key}", getattr(self, key), "there is no mesh", "'mesh.axes={data:2}'")

    def _check_axes(self) -> None:
        axes = list(self.axes.items()) if isinstance(self.axes, Mapping) else []
        suggestion = "'mesh.axes={data:2,model:4}'"
        if not axes:
            raise ConfigError("mesh.axes", self.axes, "a mesh has named axes, each with its size", suggestion)
        for name, size in axes:
            if not str(name).isidentifier() or type(size) is not int or size < 1:
                reason = f"an axis has a name and a whole number of devices, and {name}:{size} is none"
                raise ConfigError("mesh.axes", self.axes, reason, suggestion)


@dataclass(frozen=True, kw_only=True)
class FailureSettings:
    """What failed runs do to their sweep.

    Attributes:
      action: continue, or stop at the first failed run.
      max: The sweep stops at this many failed runs; null means never.
      retry: Which runs of an earlier attempt are rerun.
    """

    action: OnFailure = OnFailure["continue"]
    max: int | None = None
    retry: Retry = Retry.failed

    def __post_init__(self) -> None:
        if self.max is not None and self.max < 1:
            raise ConfigError("failure.max", self.max, "at least one failure makes a sweep stop", "failure.max=1")


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """Which combinations of its axes a sweep is.

    Attributes:
      zip: Keys whose values vary together, `[[seed,features]]`; several lists for several groups.
      exclude: Conditions over keys, `["features>16 and seed==0"]`; a config that meets one is left out.
    """

    zip: list[Any] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """The processes that do the work, and their JAX.

    Attributes:
      num_cpu_devices: Number of devices that the host CPU is split into.
      compilation_cache: off, on (in the user's cache folder), or a folder for JAX's persistent compilation cache; auto
        keeps what is never timed (all of `check`, the eager comparison of runs) in the user's cache folder, and is a
        shared folder next to the sweeps if other processes run.
      workers: Jobs that a sweep is split into for a remote platform; null: as many as run concurrently.
    """

    num_cpu_devices: int = 1
    compilation_cache: str = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.num_cpu_devices < 1:
            key = "process.num_cpu_devices"
            raise ConfigError(key, self.num_cpu_devices, "at least one is needed", f"{key}=1")
        if self.workers is not None and self.workers < 1:
            raise ConfigError("process.workers", self.workers, "at least one job is needed", "process.workers=1")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of a search (`hydra/sweeper=optuna`). They are in the config next to a `Run`, but not part of one.

    Attributes:
      objective: A number in the record, by its column in results.parquet or its dotted path in record.json.
      direction: Whether to minimise or maximise it.
      n_trials: Trials in the whole study; a study with fewer is continued.
      n_jobs: Trials suggested together, before the result of the first is reported.
    """

    objective: str | None = None
    direction: Direction = Direction.minimize
    n_trials: int = 20
    n_jobs: int = 1

    def check(self) -> None:
        """Validates what only a search needs.

        Raises:
          ConfigError: No objective, or no trials.
        """
        if self.objective is None:
            reason = "a search looks for the best of a number of the record"
            raise ConfigError("search.objective", None, reason, "search.objective=apply_latency_median_s")
        for key in ("n_trials", "n_jobs"):
            if getattr(self, key) < 1:
                raise ConfigError(
                    f"search.{key}", getattr(self, key), "at least one trial is needed", f"search.{key}=1"
                )
