"""Settings of what to run: the layer, the host around it, and x."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from runner.config.enums import InputKind
from runner.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """Which NNX layer.

    Attributes:
      name: The layer's name in tables, W&B and folder names; by default the last part of `target`.
      target: Dotted path (`pkg.mod.Class` or `pkg.mod:Class`) of an `nnx.Module` subclass or of a factory that takes
        `rngs` and returns a module.
      kwargs: Keyword arguments of the constructor.
      call: Keyword arguments of every call, e.g. `deterministic: false`.
      rngs: Names of the rng streams passed to apply; null: all that it needs.
      mutable: Collections that apply may change; null: all that it changes.
      seeded_by: Names in `kwargs` that are bound to the run's seed by `${seed}`; the runner fills it in.
    """

    name: str | None = None
    target: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    rngs: list[str] | None = None
    mutable: list[str] | None = None
    seeded_by: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.target:
            raise ConfigError("layer.target", self.target, "no layer is named", "layer.target=my_pkg.MyLayer")
        if "rngs" in self.kwargs:
            raise ConfigError("layer.kwargs.rngs", self.kwargs["rngs"], "the bridge makes rngs from the seed", "seed=0")

    @property
    def label(self) -> str:
        """The layer's name, safe in a folder name."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.name or re.split(r"[.:]", str(self.target))[-1])[:40] or "layer"


@dataclass(frozen=True, kw_only=True)
class InputSettings:
    """What x contains; its shape is `input_shape`.

    Attributes:
      kind: The distribution or source of the values.
      seed: Seed of the values (normal, tokens); independent of the layer's seed.
      dtype: NumPy or ml_dtypes name of the dtype.
      high: Exclusive upper bound of the integers of `tokens`.
      path: The `.npy` file of `file`; its shape must equal `input_shape`.
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
class HostSettings:
    """Which Linen module hosts the layer.

    Attributes:
      name: The host's name in tables.
      target: Dotted path of a `flax.linen.Module` class with a field `layer`: `self.layer()` returns the wrapped layer
        where the host needs it. Null: no host, the wrapped layer is the model.
      kwargs: The host's other fields.
      layer_name: The layer's name in the host; null for Linen's automatic name (`ToLinen_0`).
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
        """The host's name, or the last part of `target`; None if there is no host."""
        return (self.name or re.split(r"[.:]", self.target)[-1]) if self.target else None
