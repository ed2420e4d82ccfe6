"""Layers that already are Linen classes, wrappers and boxes of one's own, and a host that takes call arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import FrozenDict
from flax.nnx import bridge
from flax.nnx.bridge.wrappers import to_linen_class


class Scale(nnx.Module):
    """A weight with an axis name."""

    def __init__(self, dim: int, *, by: float = 1.0, rngs: nnx.Rngs):
        init = nnx.with_partitioning(nnx.initializers.normal(), ("embed",))
        self.weight = nnx.Param(init(rngs.params(), (dim,)), out_sharding=("embed",))
        self.by = by

    def __call__(self, x: jax.Array, *, double: bool = False) -> jax.Array:
        return x * self.weight * self.by * (2 if double else 1)


class Plain(nnx.Module):
    """A weight without one."""

    def __init__(self, dim: int, *, by: float = 1.0, rngs: nnx.Rngs):
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (dim,)))
        self.by = by

    def __call__(self, x: jax.Array, *, double: bool = False, deterministic: bool = True) -> jax.Array:
        return x * self.weight * self.by * (2 if double else 1)


PlainToLinen = to_linen_class(Plain, by=3.0)


class SubclassToLinen(to_linen_class(Plain)):
    """What flax means to be used."""


class OwnToLinen(bridge.ToLinen):
    """A wrapper of one's own."""


def own_to_linen(nnx_class: Any, **kwargs: Any) -> nn.Module:
    return OwnToLinen(nnx_class, kwargs=FrozenDict(kwargs), metadata_fn=None)


def own_class(base: Any) -> type[nn.Module]:
    """As a pipeline makes its classes: with the arguments where they are made."""

    def __init__(self, args=(), kwargs=None, metadata_fn=None, name=None, parent=None, **more):
        given = {} if parent is None else {"parent": parent}
        box = metadata_fn or halved
        OwnToLinen.__init__(
            self, base, args=args, kwargs=FrozenDict({**(kwargs or {}), **more}), metadata_fn=box, name=name, **given
        )

    product = type(f"{base.__name__}ToLinen", (OwnToLinen,), {})
    product.__init__ = __init__
    return product


def halved(variable: nnx.Variable) -> Any:
    """A box of one's own: another value, so that it shows."""
    return variable.get_value() / 2


PipelineToLinen = own_class(Plain)


class NoWrapper(nn.Module):
    """Has no place for a layer."""

    width: int = 3


def makes_no_module(nnx_class: Any, **kwargs: Any) -> int:
    return 3


class Modes(nn.Module):
    """A host with call arguments of its own, that calls the layer where it is."""

    layer: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None = None, shift: Any = 0.0) -> jax.Array:
        x = x + (0.0 if key is None else jax.random.normal(key, x.shape)) + jnp.asarray(shift)
        y = self.layer(x)
        return nn.Dense(x.shape[-1])(y) if train else y


class Positional(nn.Module):
    """Gives the layer its mode by position, as EasyLM does."""

    layer: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.layer()(x, deterministic=deterministic)


class ByPlace(nnx.Module):
    """Takes its mode as second argument."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.linear(x) * (1.0 if deterministic else 2.0)


class GivesByPlace(nn.Module):
    layer: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.layer()(x, deterministic)


class WantsProperty(nn.Module):
    """Refuses to run where its mode was not set, as Kauldron's models do."""

    layer: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, is_training_property: bool | None = None) -> jax.Array:
        if is_training_property is None:
            raise ValueError("Calling `self.is_training`, yet `is_training_property=` kwargs was not set in `.init`.")
        return self.layer(x)


twice = functools.partial(Plain, by=2.0)
