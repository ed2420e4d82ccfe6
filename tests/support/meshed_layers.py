"""Layers whose variables have axis names, for runs over a mesh."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

INIT, ZEROS = nnx.initializers.lecun_normal(), nnx.initializers.zeros


class Block(nnx.Module):
    """Up, norm, down: cut by columns, then by rows, as large models are."""

    def __init__(self, features, *, rngs):
        up, down = nnx.with_partitioning(INIT, (None, "model")), nnx.with_partitioning(INIT, ("model", None))
        bias = nnx.with_partitioning(ZEROS, ("model",))
        self.up = nnx.Linear(8, features, kernel_init=up, bias_init=bias, rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.down = nnx.Linear(features, 8, kernel_init=down, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.relu(self.norm(self.up(x))))


def boxed(features, *, rngs):
    """In the boxes of Linen (`nn.Partitioned`), which are placed by whoever unboxes them."""
    return nnx.Linear(8, features, kernel_init=bridge.with_partitioning(INIT, ("data", "model")), rngs=rngs)


def logical(features, *, rngs):
    return nnx.Linear(8, features, kernel_init=nnx.with_partitioning(INIT, ("embed", "mlp")), rngs=rngs)


def both(features, *, rngs):
    """One axis cut along two of the mesh."""
    return nnx.Linear(8, features, kernel_init=nnx.with_partitioning(INIT, (None, ("data", "model"))), rngs=rngs)


def three_names(features, *, rngs):
    return nnx.Linear(8, features, kernel_init=nnx.with_partitioning(INIT, ("data", "model", None)), rngs=rngs)


def twice(features, *, rngs):
    return nnx.Linear(8, features, kernel_init=nnx.with_partitioning(INIT, ("model", "model")), rngs=rngs)


class _Kept(nnx.Module):
    """A linear layer and something kept beside it."""

    def __init__(self, features, *, rngs):
        self.linear = nnx.Linear(8, features, kernel_init=nnx.with_partitioning(INIT, ("data", "model")), rngs=rngs)
        self.keep(rngs)

    def __call__(self, x):
        return self.linear(x) + self.kept(x)


class Keyed(_Kept):
    """A typed key that each call splits."""

    def keep(self, rngs):
        self.key = nnx.BatchStat(rngs.params())

    def kept(self, x):
        self.key[...], now = jax.random.split(self.key[...])
        return jax.random.normal(now, (x.shape[0], 1))


class FourBits(_Kept):
    def keep(self, rngs):
        self.levels = nnx.Variable(jnp.arange(8).astype("int4"))

    def kept(self, x):
        return (x * self.levels[...].astype(x.dtype)).sum(-1, keepdims=True)
