"""Layers for the presets of pipelines: of each kind that breaks in one of them, one that does and one that does not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class Plain(nnx.Module):
    """An MLP with kernels by their usual names."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.wi = nnx.Linear(dim, 2 * dim, use_bias=False, rngs=rngs)
        self.wo = nnx.Linear(2 * dim, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.wo(nnx.relu(self.wi(x)))


class LayerNormed(Plain):
    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        super().__init__(dim, rngs=rngs)
        self.norm = nnx.LayerNorm(dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(self.norm(x))


class BatchNormed(Plain):
    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        super().__init__(dim, rngs=rngs)
        self.norm = nnx.BatchNorm(dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(self.norm(x))


class Dropping(Plain):
    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        super().__init__(dim, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array, *, deterministic: bool = False) -> jax.Array:
        return super().__call__(self.dropout(x, deterministic=deterministic))


class Counting(Plain):
    """State of a type of its own."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        super().__init__(dim, rngs=rngs)
        self.seen = nnx.Variable(jnp.zeros(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        self.seen[...] += 1.0
        return super().__call__(x)


class Tables(Plain):
    """A constant of a type of its own, the same for every key."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        super().__init__(dim, rngs=rngs)
        self.table = nnx.Variable(jnp.linspace(0.0, 1.0, dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x + self.table[...])


class Features(Plain):
    """Random features that no optimiser trains, drawn from the key."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        super().__init__(dim, rngs=rngs)
        self.features = nnx.Variable(jax.random.normal(rngs.params(), (dim,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x * self.features[...])


class OtherNames(nnx.Module):
    """The same MLP, its matrices under names of the author's own."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal()
        self.w_in = nnx.Param(init(rngs.params(), (dim, 2 * dim)))
        self.w_out = nnx.Param(init(rngs.params(), (2 * dim, dim)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(x @ self.w_in[...]) @ self.w_out[...]


class Named(nnx.Module):
    """With axis names, as an NNX author writes them."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("embed", "mlp"))
        self.wi = nnx.Linear(dim, 2 * dim, use_bias=False, kernel_init=init, rngs=rngs)
        self.wo = nnx.Linear(2 * dim, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.wo(nnx.relu(self.wi(x)))


class Listed(nnx.Module):
    """With numbers in its paths."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(dim, dim, use_bias=False, rngs=rngs) for _ in range(2)])

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layers[1](nnx.relu(self.layers[0](x)))
