"""The words that settings choose among."""

from __future__ import annotations

import enum


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
