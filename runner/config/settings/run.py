"""The settings of a run: plain dataclasses, validated on construction.

Hydra checks names and types against these classes; `__post_init__` validates what types can't express. Nothing sees a
DictConfig after `schema.from_config`: a `Run` is plain data, and a record stores that same `Run`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Hashable
from dataclasses import dataclass, field, fields

from runner.config.enums import DistributedMode, TimingMode
from runner.config.settings.execution import ChecksSettings, DistributedSettings, TimingSettings, TrackingSettings
from runner.config.settings.layer import HostSettings, InputSettings, LayerSettings
from runner.config.settings.pipeline import PipelineSettings
from runner.config.settings.rules import RulesSettings
from runner.config.settings.sweep import FailureSettings, GridSettings, MeshSettings, ProcessSettings
from runner.config.settings.train import MAX_SEED, CheckpointSettings, TrainSettings
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
      variables: A run, or a checkpoint of any format (or a part of it, PATH#NAMES), to start from instead of init.
      output_root: The parent folder of sweeps.
      sweep: Name of the sweep's folder; null names it after the layer and the plan.
    """

    seed: int = 0
    input_shape: list[int] = field(default_factory=lambda: [4])
    features: int | None = 8
    device: str = "cpu"
    variables: str | None = None
    output_root: str = "outputs"
    sweep: str | None = None
    layer: LayerSettings = field(default_factory=lambda: LayerSettings(target="flax.nnx.Linear"))
    host: HostSettings = field(default_factory=HostSettings)
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    input: InputSettings = field(default_factory=InputSettings)
    timing: TimingSettings = field(default_factory=TimingSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    checks: ChecksSettings = field(default_factory=ChecksSettings)
    rules: RulesSettings = field(default_factory=RulesSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    distributed: DistributedSettings = field(default_factory=DistributedSettings)
    mesh: MeshSettings = field(default_factory=MeshSettings)
    grid: GridSettings = field(default_factory=GridSettings)
    failure: FailureSettings = field(default_factory=FailureSettings)
    process: ProcessSettings = field(default_factory=ProcessSettings)

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
        if self.mesh.axes is not None and ":" in self.device:
            reason = "a mesh takes the first devices of a kind, and none by its index"
            raise ConfigError("device", self.device, reason, f"device={self.device.partition(':')[0]}")
        if self.mesh.axes is not None and self.train.num_together:
            reason = "a run over a mesh trains alone"
            raise ConfigError("train.together", self.train.together, reason, "train.together=off")
        if self.distributed.mode is not DistributedMode.none:
            self._check_distributed()
        if self.sweep is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", self.sweep):
            # Orbax treats other characters in a path as wildcards and then can't restore what it saved.
            reason = "a folder's name is up to 100 letters, digits, '.', '_' or '-'"
            raise ConfigError("sweep", self.sweep, reason, "sweep=my_sweep")

    def _check_distributed(self) -> None:
        if self.mesh.axes is None:
            reason = "several processes make one run over a mesh of all their devices"
            raise ConfigError("mesh.axes", None, reason, "'mesh.axes={data:2}'")
        for key in ("min_warmup_s", "min_sample_s"):
            if self.timing.mode is not TimingMode.off and getattr(self.timing, key) > 0:
                reason = "processes that count calls by their own clocks would not make the same ones"
                raise ConfigError(f"timing.{key}", getattr(self.timing, key), reason, "timing=quick")


def family(run: Run) -> Hashable:
    """A key that runs share which were derived from one by `dataclasses.replace(run, seed=…)`.

    By the identity of their values, so it holds while the runs live; runs that were made apart have keys apart.
    """
    return tuple(map(id, _BUT_SEED(run)))


# Not `vars`, which makes a dict that stays with the run.
_BUT_SEED = operator.attrgetter(*(item.name for item in fields(Run) if item.name != "seed"))
