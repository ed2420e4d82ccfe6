"""Linen modules that lift a layer, one for each way pipelines do: named, jitted, remat, scan, vmap.

In each, the layer is the field `layer`, so its variables are under that name in every collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from runner.bridge import rngs
from runner.bridge.calling.arguments import Arguments
from runner.bridge.calling.calls import METHOD
from runner.bridge.wrap import Bridged

NAME = "layer"

# The name of the axis that `nn.scan` and `nn.vmap` add to axis names.
LAYERS_AXIS = "layers"


class Named(nn.Module):
    """The layer, called once under a name."""

    layer: nn.Module
    call: Mapping[str, Any]

    def __call__(self, x: jax.Array) -> Any:
        """Returns the layer's output."""
        return self.layer(x, **self.call)


class Jitted(nn.Module):
    """The layer under `nn.jit`."""

    layer: nn.Module
    call: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        """Returns the layer's output."""
        return nn.jit(lambda layer, x: layer(x, **self.call))(self.layer, x)


class Remat(nn.Module):
    """The layer under `nn.remat`, its call arguments passed through as in `nn.remat(Layer)(…)(x, …)`."""

    layer: nn.Module
    call: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        """Returns the layer's output."""
        # The method is no argument that remat can pass.
        method = {key: value for key, value in self.call.items() if key == METHOD}
        given = {key: value for key, value in self.call.items() if key != METHOD}
        return nn.remat(lambda layer, x, **call: layer(x, **call, **method))(self.layer, x, **given)


class Scanned(nn.Module):
    """`length` copies of the layer in sequence by `nn.scan`, each with its own variables and streams."""

    layer: nn.Module
    call: Mapping[str, Any]
    length: int
    collections: tuple[str, ...]
    streams: tuple[str, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        """Returns the last layer's output."""
        stack = nn.scan(
            lambda layer, carry, _: (layer(carry, **self.call), None),
            variable_axes=dict.fromkeys(self.collections, 0),
            split_rngs=dict.fromkeys(self.streams, True),
            length=self.length,
            metadata_params={nn.PARTITION_NAME: LAYERS_AXIS},
        )
        return stack(self.layer, x, None)[0]


class Mapped(nn.Module):
    """The layer under `nn.vmap` over the first axis of x: `shared` collections are shared, the others stacked."""

    layer: nn.Module
    call: Mapping[str, Any]
    size: int
    shared: tuple[str, ...]
    stacked: tuple[str, ...]
    streams: tuple[str, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        """Returns the layer's output for each entry of x, stacked."""
        # Shared weights are drawn once: `params` is split only if none are shared.
        split: Any = {stream: stream != rngs.PARAMS or not self.shared for stream in self.streams}
        axes: Any = dict.fromkeys(self.shared) | dict.fromkeys(self.stacked, 0)
        lifted = nn.vmap(
            lambda layer, x: layer(x, **self.call),
            variable_axes=axes,
            split_rngs=split,
            axis_size=self.size,
            metadata_params={nn.PARTITION_NAME: LAYERS_AXIS},
        )
        return lifted(self.layer, x)


def named(layer: Bridged) -> Bridged:
    """`layer` under a name in a host."""
    return Bridged(model=Named(**_fields(layer)))


def jitted(layer: Bridged) -> Bridged:
    """`layer` under `nn.jit` in a host."""
    return Bridged(model=Jitted(**_fields(layer)))


def remat(layer: Bridged) -> Bridged:
    """`layer` under `nn.remat` in a host."""
    return Bridged(model=Remat(**_fields(layer)))


def scan(layer: Bridged, length: int, collections: Sequence[str], streams: Sequence[str]) -> Bridged:
    """A stack of `layer` by `nn.scan`.

    Args:
      layer: A layer whose output has the shape of its input.
      length: Number of layers.
      collections: All collections that it has or makes; each gets a leading axis of that length.
      streams: All rng streams that it draws from.
    """
    own: dict[str, Any] = {"length": length, "collections": tuple(collections), "streams": tuple(streams)}
    return Bridged(model=Scanned(**_fields(layer), **own))


def vmap(
    layer: Bridged, size: int, *, shared: Sequence[str], stacked: Sequence[str], streams: Sequence[str]
) -> Bridged:
    """`layer` under `nn.vmap`.

    Args:
      layer: A layer.
      size: Length of the first axis of x.
      shared: Collections shared by all entries.
      stacked: Collections with a leading axis of that length.
      streams: All rng streams that it draws from.
    """
    own: dict[str, Any] = {"size": size, "shared": tuple(shared), "stacked": tuple(stacked), "streams": tuple(streams)}
    return Bridged(model=Mapped(**_fields(layer), **own))


def is_wrapped(model: Bridged) -> bool:
    """Whether `model` is itself a wrapped NNX layer, not a host."""
    return hasattr(model.model, "nnx_class")


def wrapped_calls(model: Bridged, streams: Sequence[str], x: Any) -> list[tuple[str, nn.Module]]:
    """Every call of a wrapped layer during init, in order: its path and the unbound layer; only traces."""
    calls: list[tuple[str, nn.Module]] = []
    _trace_init(model, streams, x, calls)
    return calls


def calls_until_error(model: Bridged, x: Any) -> list[tuple[str, nn.Module]]:
    """As `wrapped_calls`, of an init that may raise: the calls before it does."""
    calls: list[tuple[str, nn.Module]] = []
    with contextlib.suppress(Exception):
        _trace_init(model, (rngs.PARAMS, "dropout", "carry"), x, calls)
    return calls


def _trace_init(model: Bridged, streams: Sequence[str], x: Any, calls: list[tuple[str, nn.Module]]) -> None:
    inside: list[nn.Module] = []

    def watch(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        is_layer = context.method_name == "__call__" and hasattr(context.module, "nnx_class")
        if not is_layer or any(context.module is one for one in inside):  # by a subclass, through super()
            return run(*args, **kwargs)
        calls.append(("/".join(context.module.path), context.module.clone(parent=None, name=None)))
        inside.append(context.module)
        try:
            return run(*args, **kwargs)
        finally:
            inside.pop()

    def init(key: jax.Array, x: Any) -> Any:
        with nn.intercept_methods(watch):
            return model.init(key, streams, x)

    jax.eval_shape(init, rngs.key_shape(), x)


def _fields(layer: Bridged) -> dict[str, Any]:
    # An unbound, unnamed clone: it takes the field's name.
    return {
        "layer": layer.model.clone(parent=None, name=None),
        "call": layer.call if isinstance(layer.call, Arguments) else Arguments(layer.call),
    }
