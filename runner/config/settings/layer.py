"""Settings of what to run: the layer, the host around it, and x."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from runner.config.enums import InputKind
from runner.errors import ConfigError, literal


@dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """Which NNX layer.

    Attributes:
      name: The layer's name in tables, W&B and folder names; by default the last part of `target`.
      target: Dotted path (`pkg.mod.Class` or `pkg.mod:Class`) of an `nnx.Module` subclass or of a factory that takes
        `rngs` and returns a module.
      kwargs: Keyword arguments of the constructor.
      call: Keyword arguments of every call, e.g. `deterministic: false`.
      nnx_method: The method that is called, e.g. `attend`, as to_linen's `nnx_method`; null: `__call__`.
      wrapper: Dotted path of what makes the Linen module: a class with the fields of `flax.nnx.bridge.ToLinen`, or a
        function like `to_linen`; null: `ToLinen` itself.
      metadata_fn: What boxes the variables: none (bare arrays), logical (`nn.LogicallyPartitioned` where there are axis
        names), a dotted path of a function of the `nnx.Variable`, or default: what the wrapper does by itself.
      rngs: Names of the rng streams passed to apply; null: all that it needs.
      init_rngs: Names of the rng streams passed to init; null: all that it needs.
      mutable: Collections that apply may change; null: all that it changes.
      seeded_by: Names in `kwargs` that are bound to the run's seed by `${seed}`; the runner fills it in.
    """

    name: str | None = None
    target: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    nnx_method: str | None = None
    wrapper: str | None = None
    metadata_fn: str = "default"
    rngs: list[str] | None = None
    init_rngs: list[str] | None = None
    mutable: list[str] | None = None
    seeded_by: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.target:
            raise ConfigError("layer.target", self.target, "no layer is named", "layer.target=my_pkg.MyLayer")
        if "rngs" in self.kwargs:
            raise ConfigError("layer.kwargs.rngs", self.kwargs["rngs"], "the bridge makes rngs from the seed", "seed=0")
        if self.init_rngs is not None and "params" not in self.init_rngs:
            reason = "init always gets the stream params"
            suggestion = f"'layer.init_rngs=[{','.join(['params', *self.init_rngs])}]'"
            raise ConfigError("layer.init_rngs", self.init_rngs, reason, suggestion)

    @property
    def label(self) -> str:
        """The layer's name, safe in a folder name."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.name or re.split(r"[.:]", str(self.target))[-1])[:40] or "layer"


@dataclass(frozen=True, kw_only=True)
class InputSettings:
    """What x contains, whose shape is `input_shape`, and which more arrays every call gets.

    Attributes:
      kind: The distribution or source of the values.
      seed: Seed of the values (normal, tokens); independent of the layer's seed.
      dtype: NumPy or ml_dtypes name of the dtype.
      high: Exclusive upper bound of the integers of `tokens`.
      path: The `.npy` file of `file`; its shape must equal `input_shape`.
      name: The call argument that takes x, `inputs`, or its place in a dict, `obs.image`; null: the first one.
      shapes: Shapes of more arrays by call argument, `{context: [2, 8]}`; in a dict, `{obs: {speed: [2, 3]}}`. They are
        the same at every call and training step.
      dtypes: Dtypes of those arrays by the same names, `{obs.speed: float16}`; by default bool for a mask, else x's.
    """

    kind: InputKind = InputKind.normal
    seed: int = 0
    dtype: str = "float32"
    high: int | None = None
    path: str | None = None
    name: str | None = None
    shapes: dict[str, Any] = field(default_factory=dict)
    dtypes: dict[str, Any] = field(default_factory=dict)

    @property
    def more(self) -> dict[str, list[int]]:
        """Shapes of the further arrays by dotted name."""
        return dict(_dotted(self.shapes))

    @property
    def more_dtypes(self) -> dict[str, str]:
        """Dtypes of those of them that have their own."""
        return dict(_dotted(self.dtypes))

    def __post_init__(self) -> None:
        self._check_more()
        if self.seed < 0:
            raise ConfigError("input.seed", self.seed, "a seed is a whole number from 0", "input.seed=0")
        if self.kind is InputKind.tokens and (self.high is None or self.high < 1):
            raise ConfigError(
                "input.high", self.high, "tokens need the size of the vocabulary, at least 1", "input.high=32"
            )
        if self.kind is InputKind.file and not self.path:
            raise ConfigError("input.path", self.path, "input=file needs the path of an .npy file", "input.path=x.npy")

    def _check_more(self) -> None:
        if self.name is not None and not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", self.name):
            reason = "it is a call argument, or a place in one that is a dict"
            raise ConfigError("input.name", self.name, reason, "input.name=inputs")
        more = self.more
        for name, shape in more.items():
            if not isinstance(shape, list) or any(type(size) is not int or size < 1 for size in shape):
                reason = "a shape is a list of whole numbers from 1"
                raise ConfigError(f"input.shapes.{name}", shape, reason, f"'input.shapes.{name}=[2,4]'")
        if self.name in more:
            reason = f"{self.name} is where x goes, whose shape is input_shape"
            raise ConfigError(f"input.shapes.{self.name}", more[self.name], reason, "the same without it")
        for name, dtype in self.more_dtypes.items():
            if name not in more:
                reason = f"there is no such array; there are {', '.join(more) or 'none'}"
                raise ConfigError(f"input.dtypes.{name}", dtype, reason, f"'input.shapes.{name}=[2,4]'")


def _dotted(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """Which Linen module hosts the layer.

    Attributes:
      name: The host's name in tables.
      target: Dotted path of a `flax.linen.Module` class with a field `layer`: `self.layer()` returns the wrapped layer
        where the host needs it, and `self.layer(h)` calls it there. Null: no host, the wrapped layer is the model.
      kwargs: The host's other fields.
      call: Keyword arguments of every call of the host, e.g. `enable_dropout: false`; `layer.call` has the layer's.
      layer_name: The layer's name in the host; null for Linen's automatic name (`ToLinen_0`).
    """

    name: str | None = None
    target: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    layer_name: str | None = "layer"

    def __post_init__(self) -> None:
        if self.call and not self.target:
            key, value = next(iter(self.call.items()))
            reason = "there is no host that gets it"
            ours = f"the same without it, or layer.call.{key}={literal(value)} if it is the layer that takes {key}"
            raise ConfigError(f"host.call.{key}", value, reason, ours)
        if "layer" in self.kwargs:
            raise ConfigError("host.kwargs.layer", self.kwargs["layer"], "the runner puts the layer there", "layer=mlp")

    @property
    def label(self) -> str | None:
        """The host's name, or the last part of `target`; None if there is no host."""
        return (self.name or re.split(r"[.:]", self.target)[-1]) if self.target else None
