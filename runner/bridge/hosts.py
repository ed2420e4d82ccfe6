"""Linen host modules around a layer, as found in pipelines."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from runner.bridge import targets
from runner.bridge.calling import values
from runner.bridge.calling.arguments import Arguments, made
from runner.bridge.calling.calls import Drawn
from runner.bridge.wrap import Bridged
from runner.config.settings.layer import HostSettings
from runner.errors import ConfigError, LayerError, MissingArgumentsError, literal, nearest

# Fields of every Linen module.
LINEN_FIELDS = ("parent", "name")


PLACES = ("attention", "mlp", "norm")


@dataclass(frozen=True)
class Maker:
    """Creates the layer where a host needs it; hashable, so that a host can be a static argument of jit.

    Attributes:
      model: The layer as an unbound Linen module, used only as a template.
      name: The layer's name; None for Linen's automatic, numbered name.
      call: Keyword arguments of every call of the layer.
    """

    model: nn.Module
    name: str | None = None
    call: Mapping[str, Any] = field(default_factory=Arguments)

    def __call__(self, *args: Any, name: str | None = None, **kwargs: Any) -> Any:
        """Returns a new layer or, given its arrays, what it gives for them; call it inside a method of the host."""
        if len(args) == 1 and not kwargs and isinstance(args[0], (str, type(None))):
            return self(name=args[0])
        fields = {item.name: getattr(self.model, item.name) for item in dataclasses.fields(self.model) if item.init}
        values = {key: value for key, value in fields.items() if key not in LINEN_FIELDS}
        own: Any = type(self.model)
        kind = _calling(own, self.call) if self.call else own
        layer = kind(**values, name=name or self.name)
        return layer(*args, **kwargs) if args or kwargs else layer


# Once for each, since a class made again is another one to jit.
@functools.lru_cache(256)
def _calling(kind: type[nn.Module], call: Mapping[str, Any]) -> type[nn.Module]:
    """A class of wrapped layers with fixed call keyword arguments: a host calls it with only an array."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer's output."""
        return kind.__call__(self, *args, **{**call, **kwargs})

    # Linen's automatic names use the class name, hence the same one.
    return type(kind.__name__, (kind,), {"__call__": __call__, "__module__": kind.__module__})


class MLPHost(nn.Module):
    """Three blocks with the layer in the middle: [..., width] to [..., features].

    If `host.layer_name` is set, the others keep the names they had when all three were `nn.Dense`: `Dense_0` and
    `Dense_2`. With null, Linen numbers them, as in a host without explicit names.

    Attributes:
      layer: Creates the layer, which gets [..., width].
      features: Last axis of the output; null keeps that of x.
      activation: Between the blocks.
    """

    layer: Maker
    features: int | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., width], floating."""
        _require_floating("mlp", x)
        first, last = ("Dense_0", "Dense_2") if self.layer.name else (None, None)
        y = self.activation(nn.Dense(x.shape[-1], name=first)(x))
        y = self.activation(self.layer()(y))
        return nn.Dense(self.features or x.shape[-1], name=last)(y)


class TransformerHost(nn.Module):
    """A pre-norm encoder block with the layer as one of its parts: [..., length, width] to the same shape.

    The other parts have the same names as in an all-Linen block; with `host.layer_name` null, Linen numbers them.

    Attributes:
      layer: Creates the layer, which maps [..., length, width] to the same shape.
      place: attention, mlp (both its Dense and their activation), or norm (the one before attention).
      num_heads: Attention heads; must divide width.
      hidden: Hidden width of the MLP.
      activation: Inside the MLP.
    """

    layer: Maker
    place: str = "mlp"
    num_heads: int = 2
    hidden: int = 32
    activation: Callable[[jax.Array], jax.Array] = nn.gelu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., length, width], floating."""
        if self.place not in PLACES:
            close = nearest(str(self.place), PLACES) or "mlp"
            reason = f"the layer's place is {', '.join(PLACES[:-1])} or {PLACES[-1]}"
            raise ConfigError("host.kwargs.place", self.place, reason, f"host.kwargs.place={close}")
        _require_floating("transformer", x)
        _require_sequence(x, self.num_heads)
        x = x + self._part("attention", self._attention, self._part("norm", self._norm_0, x))
        return x + self._part("mlp", self._mlp, self._norm_1(x))

    def _part(self, place: str, linen: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        return _keeping_shape(f"transformer with place={place}", self.layer(), x) if self.place == place else linen(x)

    def _attention(self, x: jax.Array) -> jax.Array:
        return nn.MultiHeadDotProductAttention(self.num_heads, name=self._name("MultiHeadDotProductAttention_0"))(x)

    def _norm_0(self, x: jax.Array) -> jax.Array:
        return nn.LayerNorm(name=self._name("LayerNorm_0"))(x)

    def _norm_1(self, x: jax.Array) -> jax.Array:
        return nn.LayerNorm(name=self._name("LayerNorm_1"))(x)

    def _mlp(self, x: jax.Array) -> jax.Array:
        y = self.activation(nn.Dense(self.hidden, name=self._name("Dense_0"))(x))
        return nn.Dense(x.shape[-1], name=self._name("Dense_1"))(y)

    def _name(self, name: str) -> str | None:
        return name if self.layer.name else None


class ScannedHost(nn.Module):
    """A residual stack of the layer by `nn.scan`: [..., width] to the same shape.

    Every collection has a leading axis of `num_layers`, and every rng stream is split, so that each layer has its own
    weights and masks.

    Attributes:
      layer: Creates the layer, which keeps the shape of its input.
      num_layers: Layers in the stack.
    """

    layer: Maker
    num_layers: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., width], floating."""
        if not isinstance(self.num_layers, int) or self.num_layers < 1:
            key = "host.kwargs.num_layers"
            raise ConfigError(key, self.num_layers, "a stack has at least one layer", f"{key}=2")
        _require_floating("scanned", x)
        stack = nn.scan(_Residual, variable_axes={True: 0}, split_rngs={True: True}, length=self.num_layers)
        y, _ = stack(self.layer, name="layers")(x, None)
        return y


class _Residual(nn.Module):
    """One layer of the stack in `nn.scan` form: takes a carry, returns a carry and no output."""

    layer: Maker

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        # The carry of a scan must keep its dtype too.
        return (x + _keeping_shape("scanned", self.layer(), x)).astype(x.dtype), None


def put_around(layer: Bridged, settings: HostSettings) -> Bridged:
    """Puts `layer` inside the host named in `settings`; returns `layer` itself if there is none.

    Raises:
      LayerError: The target can't be imported, or is not a Linen module with a field `layer`.
      ConfigError: The host has no such field, or a value can't be resolved to what it names.
    """
    if settings.target is None:
        return layer
    target = resolve_host(settings.target)
    _require_fields(settings, target)
    # Linen freezes the lists and dicts of a module's fields itself, but only once it is bound.
    given = values.resolve_all(target, settings.kwargs, prefix="host.kwargs")
    kwargs = {key: values.frozen(made(value, None)) for key, value in given.items()}
    call = {key: values.resolve_call(value, path=f"host.call.{key}") for key, value in settings.call.items()}
    drawn = tuple((key, value.stream) for key, value in call.items() if isinstance(value, Drawn))
    maker = Maker(layer.model, settings.layer_name, layer.call)
    own: Any = target
    kind = _drawing(own, drawn) if drawn else own
    return Bridged(
        model=kind(layer=maker, **kwargs),
        call=Arguments({key: value for key, value in call.items() if not isinstance(value, Drawn)}),
    )


@functools.lru_cache(256)
def _drawing(kind: type[nn.Module], keys: tuple[tuple[str, str], ...]) -> type[nn.Module]:
    """The class of a host whose call takes keys: drawn again at each call, each from its stream."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        """The host's output."""
        return kind.__call__(self, *args, **{name: self.make_rng(stream) for name, stream in keys}, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": __call__, "__module__": kind.__module__})


def with_linen(hosted: Bridged, linen: nn.Module) -> Bridged:
    """The twin pipeline: the same host with the Linen module `linen` in place of the layer, under the same name."""
    maker = getattr(hosted.model, "layer", None)
    if not isinstance(maker, Maker):
        raise LayerError("a pipeline without a host has no place for a Linen twin", "host=mlp")
    return Bridged(model=hosted.model.clone(layer=Maker(linen, maker.name)))


def resolve_host(path: str) -> type[nn.Module]:
    """The Linen module class at a dotted path.

    Raises:
      LayerError: The path can't be imported, or is not a `flax.linen.Module` class with a field `layer`.
    """
    found = targets.import_path(path, key="host.target")
    wanted = "class MyHost(nn.Module): layer: Callable, and in its __call__ self.layer()(x)"
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise LayerError(f"host.target={path}: {kind} is no flax.linen.Module class", wanted)
    if "layer" not in {item.name for item in dataclasses.fields(found)}:
        raise LayerError(
            f"host.target={path}: the class {found.__name__} has no field `layer` to put the layer", wanted
        )
    return found


def _require_fields(settings: HostSettings, target: type[nn.Module]) -> None:
    fields = {item.name: item for item in dataclasses.fields(target) if item.name not in (*LINEN_FIELDS, "layer")}
    for key, value in settings.kwargs.items():
        if key not in fields:
            close = nearest(key, fields)
            raise ConfigError(
                f"host.kwargs.{key}",
                value,
                f"{target.__name__} has the fields {', '.join(fields) or 'layer only'}",
                f"host.kwargs.{close}={literal(value)}" if close else f"~host.kwargs.{key}",
            )
    required = [
        key
        for key, item in fields.items()
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    missing = [key for key in required if key not in settings.kwargs]
    if missing:
        what = f"host.target={settings.target}: it also needs {', '.join(missing)}"
        raise MissingArgumentsError(what, [f"host.kwargs.{key}" for key in missing])


def _require_floating(host: str, x: jax.Array) -> None:
    # Linen's Dense would silently treat token ids as quantities.
    if not jnp.issubdtype(x.dtype, jnp.floating):
        what = f"host {host} can't take x of shape {literal(x.shape)} {x.dtype}: it calculates with floating numbers"
        raise LayerError(what, "input=normal, or host=none")


def _require_sequence(x: jax.Array, num_heads: int) -> None:
    what = f"host transformer can't take x of shape {literal(x.shape)}"
    if x.ndim < 2:
        raise LayerError(f"{what}: it wants [length, width]", "'input_shape=[6,8]'")
    if x.shape[-1] % num_heads:
        raise LayerError(f"{what}: its width is no multiple of {num_heads} heads", "host.kwargs.num_heads=1")


def _keeping_shape(host: str, layer: nn.Module, x: jax.Array) -> jax.Array:
    y = layer(x)
    if getattr(y, "shape", None) != x.shape:
        got = literal(y.shape) if hasattr(y, "shape") else f"a {type(y).__name__}"
        what = f"host {host}: the layer gives {got} for x of {literal(x.shape)}, and the sum needs the same shape"
        raise LayerError(what, f"features={x.shape[-1]}, or another layer")
    return y
