"""The settings of conf/: one frozen dataclass a config group, checked for meaning as it is built.

Hydra checks names and types against these classes; `__post_init__` checks what a type can't say. After
`schema.from_config` nobody sees a DictConfig: a `Run` is plain data, and the same `Run` is what a record keeps.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.errors import ConfigError, literal, nearest

# Without x64 PRNGKey takes no more than 32 bits.
MAX_SEED = 2**32 - 1

# What to type where a key is none that we know, nor near one.
ALL_KEYS = "bridge-runner --cfg job"

DEVICE_PATTERN = re.compile(r"(cpu|gpu|tpu|auto)(:\d+)?")


class InputKind(enum.Enum):
    """What x holds."""

    normal = "normal"
    ones = "ones"
    zeros = "zeros"
    arange = "arange"
    tokens = "tokens"
    file = "file"


class TimingMode(enum.Enum):
    """How much care a time is taken with (off: no steady state is measured)."""

    quick = "quick"
    careful = "careful"
    off = "off"


class ChecksMode(enum.Enum):
    """What a check that says no does: refuse the run, only say so, or not be made."""

    strict = "strict"
    report = "report"
    off = "off"


class ChecksDepth(enum.Enum):
    """How far the claims about a program are tested: by tracing alone, or all of them with everything that runs."""

    traced = "traced"
    full = "full"


class EagerCheck(enum.Enum):
    """On which runs of a sweep the jitted path is compared with the eager one, bit for bit."""

    layer = "layer"
    program = "program"
    never = "never"


class CheckpointWriter(enum.Enum):
    """What writes the Linen variables: Orbax, our clones of Orbax's files, or nothing."""

    orbax = "orbax"
    fast = "fast"
    none = "none"


class Keep(enum.Enum):
    """Which checkpoints of a sweep stay: every one, not one, those of its last runs, or of its best ones."""

    all = "all"
    none = "none"
    last = "last"
    best = "best"


class Mode(enum.Enum):
    """Which values of a metric are better."""

    min = "min"
    max = "max"


class TrackingMode(enum.Enum):
    """Where runs are shown: W&B as files, W&B on a server too, TensorBoard, or nowhere."""

    offline = "offline"
    online = "online"
    tensorboard = "tensorboard"
    disabled = "disabled"


class DistributedMode(enum.Enum):
    """Whether one process makes a run, or several together."""

    none = "none"
    jax = "jax"


# What a failed run does to the rest of its sweep. (Functional, since `continue` is no name in Python.)
OnFailure = enum.Enum("OnFailure", {"continue": "continue", "stop": "stop"})


class Retry(enum.Enum):
    """Which runs of an earlier attempt are done again: failed ones, also stale ones (other software), or none."""

    failed = "failed"
    all = "all"
    none = "none"


class Direction(enum.Enum):
    """Which values of its objective a search likes."""

    minimize = "minimize"
    maximize = "maximize"


@dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """Which NNX layer.

    Attributes:
      name: What the layer is called in tables, W&B and folder names; by default the last part of `target`.
      target: Dotted path (`pkg.mod.Class` or `pkg.mod:Class`) of an `nnx.Module` subclass or of a factory that takes
        `rngs` and returns a module.
      kwargs: Keyword arguments of the constructor.
      call: Keyword arguments of every call, e.g. `deterministic: false`.
      rngs: Names of the rng streams that apply is given; null: all that it needs.
      mutable: Collections that apply may change; null: all that it changes.
    """

    name: str | None = None
    target: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    rngs: list[str] | None = None
    mutable: list[str] | None = None

    def __post_init__(self) -> None:
        if not self.target:
            raise ConfigError("layer.target", self.target, "no layer is named", "layer.target=my_pkg.MyLayer")
        if "rngs" in self.kwargs:
            raise ConfigError("layer.kwargs.rngs", self.kwargs["rngs"], "the bridge makes rngs from the seed", "seed=0")

    @property
    def label(self) -> str:
        """The layer's name, safe in a folder's name."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.name or re.split(r"[.:]", str(self.target))[-1])[:40] or "layer"


@dataclass(frozen=True, kw_only=True)
class InputSettings:
    """What x holds; its shape is `input_shape`.

    Attributes:
      kind: The distribution or source of the values.
      seed: Seed of the values (normal, tokens); independent of the layer's seed.
      dtype: NumPy or ml_dtypes name of the element type.
      high: Exclusive upper end of the integers of `tokens`.
      path: The `.npy` file of `file`; its shape replaces nothing: it must equal `input_shape`.
    """

    kind: InputKind = InputKind.normal
    seed: int = 0
    dtype: str = "float32"
    high: int | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError("input.seed", self.seed, "a seed is a whole number from 0", "input.seed=0")
        if self.kind is InputKind.tokens and (self.high is None or self.high < 1):
            raise ConfigError(
                "input.high", self.high, "tokens need the size of the vocabulary, at least 1", "input.high=32"
            )
        if self.kind is InputKind.file and not self.path:
            raise ConfigError("input.path", self.path, "input=file needs the path of an .npy file", "input.path=x.npy")


@dataclass(frozen=True, kw_only=True)
class TimingSettings:
    """How a time is taken.

    Attributes:
      mode: quick, careful, or off.
      warmup: Calls made and not counted, at least 1.
      min_warmup_s: Seconds of warm-up at least.
      rounds: Samples taken.
      min_sample_s: A sample calls in a loop until it lasts so long; 0 means one call a sample.
      pipeline: Calls in flight for the throughput sample.
      turns: Whether a run waits until no other process of ours works on this machine; if not, its times are flagged. No
        part of what a run is: it changes no number, only how much it is to be believed.
    """

    mode: TimingMode = TimingMode.quick
    warmup: int = 2
    min_warmup_s: float = 0.0
    rounds: int = 10
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
        for key in ("min_warmup_s", "min_sample_s"):
            got = getattr(self, key)
            if not (math.isfinite(got) and got >= 0):
                raise ConfigError(f"timing.{key}", got, "seconds can't be negative", f"timing.{key}=0.1")


@dataclass(frozen=True, kw_only=True)
class ChecksSettings:
    """Which claims are tested about a run, and what a no does.

    Attributes:
      mode: strict, report, or off.
      depth: traced tests claims 1 to 5 by tracing, once a program; full tests all of them, which compiles and runs.
      eager: Which runs compare the jitted init and apply with the eager ones: the first of each layer, the first of
        each program, or none. Eager init compiles every operation by itself and costs more than the program.
    """

    mode: ChecksMode = ChecksMode.strict
    depth: ChecksDepth = ChecksDepth.traced
    eager: EagerCheck = EagerCheck.layer


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """Which Linen module is around the layer.

    Attributes:
      name: What the host is called in tables.
      target: Dotted path of a `flax.linen.Module` class with a field `layer`: `self.layer()` gives the wrapped layer
        where the host wants it. Null: no host, the wrapped layer is the model.
      kwargs: The host's other fields.
      layer_name: The name that the layer gets in the host; null leaves it to Linen, which counts (`ToLinen_0`).
    """

    name: str | None = None
    target: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    layer_name: str | None = "layer"

    def __post_init__(self) -> None:
        if "layer" in self.kwargs:
            raise ConfigError("host.kwargs.layer", self.kwargs["layer"], "the runner puts the layer there", "layer=mlp")

    @property
    def label(self) -> str | None:
        """What the host is called: its name, or the last part of `target`; None where there is none."""
        return (self.name or re.split(r"[.:]", self.target)[-1]) if self.target else None


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A few steps of training after init.

    Attributes:
      steps: Optimiser steps; 0 trains nothing.
      optimizer: Name of a function of optax: adam, sgd, adamw, …
      learning_rate: Its step size.
      collections: Collections given to the optimiser.
      teacher_seed: Seed of the weights whose output is to be learnt.
      save_every: A step is kept on the disk after so many, for a killed run to go on from; 0 keeps none.
      keep_steps: So many of the kept steps stay, the last ones.
    """

    steps: int = 0
    optimizer: str = "adam"
    learning_rate: float = 0.01
    collections: list[str] = field(default_factory=lambda: ["params"])
    teacher_seed: int = 1
    save_every: int = 0
    keep_steps: int = 2

    def __post_init__(self) -> None:
        if self.save_every < 0:
            reason = "steps are kept after so many of them, or none at 0"
            raise ConfigError("train.save_every", self.save_every, reason, "train.save_every=100")
        if self.keep_steps < 1:
            reason = "at least the last step that was kept stays"
            raise ConfigError("train.keep_steps", self.keep_steps, reason, "train.keep_steps=2")
        if self.steps < 0:
            raise ConfigError("train.steps", self.steps, "steps are a whole number from 0", "train.steps=10")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(
                "train.learning_rate", self.learning_rate, "a positive number", "train.learning_rate=0.01"
            )
        if not 0 <= self.teacher_seed <= MAX_SEED:
            raise ConfigError("train.teacher_seed", self.teacher_seed, "a whole number from 0", "train.teacher_seed=1")
        if not self.collections:
            raise ConfigError("train.collections", [], "the optimiser needs one", "'train.collections=[params]'")

    @property
    def keeps_steps(self) -> bool:
        """Whether steps are kept while it trains."""
        return self.steps > 0 and self.save_every > 0


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """What writes the Linen variables, and which of a sweep stay.

    Attributes:
      writer: orbax, fast, or none.
      keep: all, none, `last:N` (the last runs of the sweep), or `best:N` (by `metric`).
      metric: The number that best goes by: a column of results.parquet, or a path in record.json.
      mode: min or max: which values of it are better.
    """

    writer: CheckpointWriter = CheckpointWriter.orbax
    keep: str = "all"
    metric: str | None = None
    mode: Mode = Mode.min

    def __post_init__(self) -> None:
        if not re.fullmatch(r"all|none|(last|best):[1-9]\d{0,8}", self.keep):
            reason = "a sweep keeps all, none, last:N or best:N, N being at least 1"
            raise ConfigError("checkpoint.keep", self.keep, reason, "checkpoint.keep=last:3")
        if self.rule is Keep.best and self.metric is None:
            reason = "the number that best goes by is not named"
            raise ConfigError(
                "checkpoint.keep", self.keep, reason, f"checkpoint.keep={self.keep} checkpoint.metric=loss_last"
            )

    @property
    def rule(self) -> Keep:
        """Which ones stay."""
        return Keep(self.keep.partition(":")[0])

    @property
    def num_kept(self) -> int | None:
        """How many stay of those that are written; None for all."""
        number = self.keep.partition(":")[2]
        return int(number) if number else None

    @property
    def writes(self) -> bool:
        """Whether a run is saved at all."""
        return self.writer is not CheckpointWriter.none and self.rule is not Keep.none

    @property
    def sentence(self) -> str:
        """What was typed, for a record to say."""
        by = f" checkpoint.metric={self.metric} checkpoint.mode={self.mode.value}"
        return f"checkpoint.keep={self.keep}" + (by if self.rule is Keep.best else "")


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where runs are shown beside the sweep's own files, and what they carry there.

    Attributes:
      mode: offline (W&B runs as files in the sweep's folder), online (these are sent too), tensorboard, or disabled.
      project: W&B project.
      entity: W&B user or team; null means the account's default.
      tags: Tags of every run, beside the layer's name and the device.
      notes: Free text of every run.
      table_max_elements: An output with at most so many elements is also logged as a table.
      patience_s: With online, seconds at the sweep's end that the server may be silent; it gets no more than twice as
        many, and a quarter more for each run that arrives.
    """

    mode: TrackingMode = TrackingMode.offline
    project: str = "bridge-runner"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    table_max_elements: int = 256
    patience_s: float = 2.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.patience_s) and self.patience_s >= 0):
            raise ConfigError(
                "tracking.patience_s", self.patience_s, "seconds can't be negative", "tracking.patience_s=2.5"
            )


@dataclass(frozen=True, kw_only=True)
class DistributedSettings:
    """Which processes make a run together; null is taken from the environment (`experiment.distributed`).

    Attributes:
      mode: none, or jax: several, by `jax.distributed`.
      coordinator: `HOST:PORT`, where the first process listens.
      num_processes: How many there are.
      process_id: Which of them this is, from 0.
      timeout_s: How long each waits for the others.
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


@dataclass(frozen=True, kw_only=True)
class Run:
    """One config: everything that one run needs, as plain data.

    Attributes:
      seed: The Linen init key is `jax.random.PRNGKey(seed)`.
      input_shape: Shape of x; its last axis is the layer's in_features.
      features: The layer's out_features; null for a layer that has none.
      device: cpu, gpu, tpu or auto, or with an index: `cpu:1`.
      variables: Folder of an Orbax checkpoint, or of a run, that the run starts from instead of init's variables.
      mesh: Names and sizes of the axes of a mesh of devices, `{data: 2, model: 4}`, in order; null: one device.
      mesh_input: The mesh axis of every axis of x (a name, several names, or null), `[data,null]`; null cuts the first
        axis of x along the first axis of the mesh where that divides it, unless x has no other axis.
      mesh_rules: The mesh axis (or axes, or null) that an axis name of a variable stands for: `{embed: model}`.
      num_cpu_devices: How many devices the host CPU is split into.
      compilation_cache: off, on (in the user's cache folder), or a folder for JAX's persistent compilation cache; auto
        is off in one process, and where other processes do the work a folder beside the sweeps that they share.
      workers: Jobs that a sweep is cut into for an engine beside this process; null: as many as run side by side.
      output_root: Where sweeps leave their folders.
      sweep: Name of the sweep's folder; null names it after the layer and the plan.
      on_failure: continue, or stop at the first failed run.
      max_failures: The sweep stops at so many failed runs; null means never.
      retry: Which runs of an earlier attempt are done again.
      zip: Keys whose values go together in a sweep, `[[seed,features]]`; several lists for several groups.
      exclude: Conditions over keys, `["features>16 and seed==0"]`; configs that meet one are left out of a sweep.
    """

    seed: int = 0
    input_shape: list[int] = field(default_factory=lambda: [4])
    features: int | None = 8
    device: str = "cpu"
    variables: str | None = None
    mesh: Any = None  # dict[str, int] | None: OmegaConf can't put a dict in the place of a typed null
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
            self._judge_mesh(self.mesh)
        elif self.mesh_input is not None or self.mesh_rules:
            key = "mesh_rules" if self.mesh_input is None else "mesh_input"
            raise ConfigError(key, getattr(self, key), "there is no mesh", "'mesh={data:2}'")
        if self.distributed.mode is not DistributedMode.none:
            self._judge_distributed()
        if self.num_cpu_devices < 1:
            raise ConfigError("num_cpu_devices", self.num_cpu_devices, "at least one is needed", "num_cpu_devices=1")
        if self.workers is not None and self.workers < 1:
            raise ConfigError("workers", self.workers, "at least one job is needed", "workers=1")
        if self.max_failures is not None and self.max_failures < 1:
            raise ConfigError(
                "max_failures", self.max_failures, "at least one failure makes a sweep stop", "max_failures=1"
            )
        if self.sweep is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", self.sweep):
            # Orbax reads other characters in a path as wildcards and then can't restore what it saved.
            reason = "a folder's name is up to 100 letters, digits, '.', '_' or '-'"
            raise ConfigError("sweep", self.sweep, reason, "sweep=my_sweep")

    def _judge_distributed(self) -> None:
        if self.mesh is None:
            reason = "several processes make one run over a mesh of all their devices"
            raise ConfigError("mesh", None, reason, "'mesh={data:2}'")
        for key in ("min_warmup_s", "min_sample_s"):
            if self.timing.mode is not TimingMode.off and getattr(self.timing, key) > 0:
                reason = "processes that count calls by their own clocks would not make the same ones"
                raise ConfigError(f"timing.{key}", getattr(self.timing, key), reason, "timing=quick")

    def _judge_mesh(self, mesh: Any) -> None:
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
    """What a search (`hydra/sweeper=optuna`) looks for. It stands in the config beside a `Run`, and is no part of one.

    Attributes:
      objective: A number of the record, by its column in results.parquet or its dotted path in record.json.
      direction: Whether its least or its greatest value is the best.
      n_trials: Trials of the whole study; a study that has fewer goes on.
      n_jobs: Trials that are asked for together, before the first of them is told.
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


def to_data(run: Run) -> dict[str, Any]:
    """`run` as JSON data: enums by value, the same keys as the config."""
    # Not asdict, which copies everything once more: this is asked several times a run.
    return json.loads(json.dumps(vars(run), default=lambda one: one.value if isinstance(one, enum.Enum) else vars(one)))


def defaults() -> dict[str, Any]:
    """Every key that can be typed, dotted, with its value when nothing is typed."""
    return flatten(to_data(Run())) | {item.name: item.default for item in dataclasses.fields(Search)}


def from_data(data: Mapping[str, Any]) -> Run:
    """The `Run` that `to_data` wrote.

    Raises:
      ConfigError: An unknown key, or a value without meaning.
    """
    groups = {item.name: item.default_factory for item in dataclasses.fields(Run)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in groups:
            close = nearest(key, groups)
            raise ConfigError(key, value, "no such key", f"{close}={literal(value)}" if close else ALL_KEYS)
        is_group = key in _group_types() and isinstance(value, Mapping)
        values[key] = _group(key, value) if is_group else _typed("", key, value)
    return Run(**values)


def canonical_digest(data: Any) -> str:
    """SHA-256 of `data` as canonical JSON: sorted keys, no spaces, stable across machines."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()


def varied_keys(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted config keys whose value is not the same in all of `runs`, in config order."""
    flat = [flatten(run) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    return [key for key in keys if any(one.get(key, keys) != flat[0].get(key, keys) for one in flat)]


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`data` with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):  # not Mapping: its check takes ten times as long
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@functools.cache
def _group_types() -> dict[str, type]:
    return {
        "layer": LayerSettings,
        "host": HostSettings,
        "train": TrainSettings,
        "input": InputSettings,
        "timing": TimingSettings,
        "checks": ChecksSettings,
        "checkpoint": CheckpointSettings,
        "tracking": TrackingSettings,
        "distributed": DistributedSettings,
    }


@functools.cache
def _enum_fields() -> dict[tuple[str, str], type[enum.Enum]]:
    return {
        ("", "on_failure"): OnFailure,
        ("", "retry"): Retry,
        ("input", "kind"): InputKind,
        ("timing", "mode"): TimingMode,
        ("checks", "mode"): ChecksMode,
        ("checks", "depth"): ChecksDepth,
        ("checks", "eager"): EagerCheck,
        ("checkpoint", "writer"): CheckpointWriter,
        ("checkpoint", "mode"): Mode,
        ("tracking", "mode"): TrackingMode,
        ("distributed", "mode"): DistributedMode,
    }


def _group(key: str, value: Mapping[str, Any]) -> Any:
    group = _group_types()[key]
    known = [item.name for item in dataclasses.fields(group)]
    values = {}
    for name, item in value.items():
        if name not in known:
            close = nearest(name, known)
            suggestion = f"{key}.{close}={literal(item)}" if close else ALL_KEYS
            raise ConfigError(f"{key}.{name}", item, "no such key", suggestion)
        values[name] = _typed(key, name, item)
    return group(**values)


def _typed(group: str, name: str, value: Any) -> Any:
    kind = _enum_fields().get((group, name))
    if kind is None:
        return value
    # Hydra gives an enum's name, a record its value.
    by_name = kind.__members__.get(str(value))
    return by_name if by_name is not None else kind(value)
