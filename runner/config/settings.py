"""The settings of a run and of a search: plain dataclasses, validated on construction.

Hydra checks names and types against these classes; `__post_init__` validates what types can't express. Nothing sees a
DictConfig after `schema.from_config`: a `Run` is plain data, and a record stores that same `Run`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.config.enums import Direction, DistributedMode, OnFailure, Retry, TimingMode
from runner.config.layer_settings import HostSettings, InputSettings, LayerSettings
from runner.config.run_settings import ChecksSettings, DistributedSettings, TimingSettings, TrackingSettings
from runner.config.train_settings import MAX_SEED, CheckpointSettings, TrainSettings
from runner.errors import ConfigError

DEVICE_PATTERN = re.compile(r"(cpu|gpu|tpu|auto)(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One config: everything a run needs, as plain data.

    Attributes:
      seed: The Linen init key is `jax.random.PRNGKey(seed)`.
      input_shape: Shape of x; its last axis is the layer's in_features.
      features: The layer's out_features; null for a layer that has none.
      device: cpu, gpu, tpu or auto, optionally with an index: `cpu:1`.
      variables: Folder of an Orbax checkpoint, or of a run, to start from instead of init's variables.
      mesh: Names and sizes of the axes of a device mesh, `{data: 2, model: 4}`, in order; null: one device.
      mesh_input: The mesh axis of every axis of x (a name, several names, or null), `[data,null]`; null shards the
        first axis of x along the first mesh axis if that divides it, unless x has no other axis.
      mesh_rules: The mesh axis (or axes, or null) that a variable's axis name maps to: `{embed: model}`.
      num_cpu_devices: Number of devices that the host CPU is split into.
      compilation_cache: off, on (in the user's cache folder), or a folder for JAX's persistent compilation cache; auto
        is off in one process, and a shared folder next to the sweeps if other processes do the work.
      workers: Jobs that a sweep is split into for a remote platform; null: as many as run concurrently.
      output_root: The parent folder of sweeps.
      sweep: Name of the sweep's folder; null names it after the layer and the plan.
      on_failure: continue, or stop at the first failed run.
      max_failures: The sweep stops at this many failed runs; null means never.
      retry: Which runs of an earlier attempt are rerun.
      zip: Keys whose values vary together in a sweep, `[[seed,features]]`; several lists for several groups.
      exclude: Conditions over keys, `["features>16 and seed==0"]`; a sweep leaves out configs that meet one.
    """

    seed: int = 0
    input_shape: list[int] = field(default_factory=lambda: [4])
    features: int | None = 8
    device: str = "cpu"
    variables: str | None = None
    mesh: Any = None  # dict[str, int] | None: OmegaConf can't replace a typed null with a dict
    mesh_input: list[Any] | None = None
    mesh_rules: dict[str, Any] = field(default_factory=dict)
    num_cpu_devices: int = 1
    compilation_cache: str = "auto"
    workers: int | None = None
    output_root: str = "outputs"
    sweep: str | None = None
    on_failure: OnFailure = OnFailure["continue"]
    max_failures: int | None = None
    retry: Retry = Retry.failed
    zip: list[Any] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    layer: LayerSettings = field(default_factory=lambda: LayerSettings(target="flax.nnx.Linear"))
    host: HostSettings = field(default_factory=HostSettings)
    input: InputSettings = field(default_factory=InputSettings)
    timing: TimingSettings = field(default_factory=TimingSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    checks: ChecksSettings = field(default_factory=ChecksSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    distributed: DistributedSettings = field(default_factory=DistributedSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError("seed", self.seed, f"a seed is a whole number from 0 to {MAX_SEED}", "seed=0")
        if not self.input_shape:
            raise ConfigError("input_shape", self.input_shape, "x needs at least one axis", "'input_shape=[4]'")
        if any(size < 1 for size in self.input_shape):
            raise ConfigError(
                "input_shape", self.input_shape, "every axis needs at least one element", "'input_shape=[4]'"
            )
        if self.features is not None and self.features < 1:
            raise ConfigError("features", self.features, "a layer gives at least one feature", "features=8")
        if not DEVICE_PATTERN.fullmatch(self.device):
            raise ConfigError(
                "device", self.device, "a device is cpu, gpu, tpu or auto, or with an index cpu:1", "device=cpu"
            )
        if self.mesh is not None:
            self._check_mesh(self.mesh)
        elif self.mesh_input is not None or self.mesh_rules:
            key = "mesh_rules" if self.mesh_input is None else "mesh_input"
            raise ConfigError(key, getattr(self, key), "there is no mesh", "'mesh={data:2}'")
        if self.distributed.mode is not DistributedMode.none:
            self._check_distributed()
        if self.num_cpu_devices < 1:
            raise ConfigError("num_cpu_devices", self.num_cpu_devices, "at least one is needed", "num_cpu_devices=1")
        if self.workers is not None and self.workers < 1:
            raise ConfigError("workers", self.workers, "at least one job is needed", "workers=1")
        if self.max_failures is not None and self.max_failures < 1:
            raise ConfigError(
                "max_failures", self.max_failures, "at least one failure makes a sweep stop", "max_failures=1"
            )
        if self.sweep is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", self.sweep):
            # Orbax treats other characters in a path as wildcards and then can't restore what it saved.
            reason = "a folder's name is up to 100 letters, digits, '.', '_' or '-'"
            raise ConfigError("sweep", self.sweep, reason, "sweep=my_sweep")

    def _check_distributed(self) -> None:
        if self.mesh is None:
            reason = "several processes make one run over a mesh of all their devices"
            raise ConfigError("mesh", None, reason, "'mesh={data:2}'")
        for key in ("min_warmup_s", "min_sample_s"):
            if self.timing.mode is not TimingMode.off and getattr(self.timing, key) > 0:
                reason = "processes that count calls by their own clocks would not make the same ones"
                raise ConfigError(f"timing.{key}", getattr(self.timing, key), reason, "timing=quick")

    def _check_mesh(self, mesh: Any) -> None:
        axes = list(mesh.items()) if isinstance(mesh, Mapping) else []
        if not axes:
            raise ConfigError("mesh", mesh, "a mesh has named axes, each with its size", "'mesh={data:2,model:4}'")
        for name, size in axes:
            if not str(name).isidentifier() or type(size) is not int or size < 1:
                reason = f"an axis has a name and a whole number of devices, and {name}:{size} is none"
                raise ConfigError("mesh", mesh, reason, "'mesh={data:2,model:4}'")
        if ":" in self.device:
            reason = "a mesh takes the first devices of a kind, and none by its index"
            raise ConfigError("device", self.device, reason, f"device={self.device.partition(':')[0]}")


@dataclass(frozen=True, kw_only=True)
class Search:
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

    def __post_init__(self) -> None:
        if self.objective is None:
            reason = "a search looks for the best of a number of the record"
            raise ConfigError("objective", None, reason, "objective=apply_latency_median_s")
        for key in ("n_trials", "n_jobs"):
            if getattr(self, key) < 1:
                raise ConfigError(key, getattr(self, key), "at least one trial is needed", f"{key}=1")
