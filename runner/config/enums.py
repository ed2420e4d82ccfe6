"""The enums of the settings."""

from __future__ import annotations

import enum


class InputKind(enum.Enum):
    """What x contains."""

    normal = "normal"
    ones = "ones"
    zeros = "zeros"
    arange = "arange"
    tokens = "tokens"
    file = "file"


class TimingMode(enum.Enum):
    """How carefully times are measured (off: no steady state is measured)."""

    quick = "quick"
    careful = "careful"
    off = "off"


class ChecksMode(enum.Enum):
    """What a failing check does: fail the run or only report it; with off, no checks run."""

    strict = "strict"
    warn = "warn"
    off = "off"


class ChecksDepth(enum.Enum):
    """How deep the checks of a program go: tracing only, or all of them, with everything executed."""

    traced = "traced"
    full = "full"


class EagerCheck(enum.Enum):
    """Which runs of a sweep compare the jitted path with the eager one, bit for bit."""

    layer = "layer"
    program = "program"
    never = "never"


class CheckpointWriter(enum.Enum):
    """What writes the Linen variables: Orbax or nothing."""

    orbax = "orbax"
    none = "none"


class Keep(enum.Enum):
    """Which checkpoints of a sweep are kept: all, none, those of the last runs, or of the best ones."""

    all = "all"
    none = "none"
    last = "last"
    best = "best"


class Mode(enum.Enum):
    """Which values of a metric are better."""

    min = "min"
    max = "max"


class TrackingMode(enum.Enum):
    """Where runs are tracked: W&B as files, W&B on a server too, TensorBoard, nowhere, or what WANDB_MODE says."""

    auto = "auto"
    offline = "offline"
    online = "online"
    tensorboard = "tensorboard"
    disabled = "disabled"


class RuleMatch(enum.Enum):
    """How a rule's regex meets a path: anywhere in it, or all of it; what meets no override keeps what it has."""

    search = "search"
    fullmatch = "fullmatch"
    override = "override"


class DistributedMode(enum.Enum):
    """Whether a run uses one process or several together."""

    none = "none"
    jax = "jax"


# What a failed run does to the rest of its sweep. (Functional syntax, since `continue` is a Python keyword.)
OnFailure = enum.Enum("OnFailure", {"continue": "continue", "stop": "stop"})


class Retry(enum.Enum):
    """Which runs of an earlier attempt are rerun: failed ones, also stale ones (other software), or none."""

    failed = "failed"
    all = "all"
    none = "none"


class Direction(enum.Enum):
    """Which values of its objective a search prefers."""

    minimize = "minimize"
    maximize = "maximize"
