"""MLPs for Kauldron's blocks, in NNX: the one that Kauldron has, and some with a mode."""

from __future__ import annotations

import jax
from flax import nnx

KERNEL = nnx.initializers.xavier_uniform()


class Mlp(nnx.Module):
    """Kauldron's TransformerMLP, under its names: [..., features] to the same."""

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs):
        self.dense_in = nnx.Linear(features, hidden, kernel_init=KERNEL, rngs=rngs)
        self.dense_out = nnx.Linear(hidden, features, kernel_init=KERNEL, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense_out(nnx.gelu(self.dense_in(x)))


class ModedMlp(Mlp):
    """With dropout and running statistics, off in evaluation if it is told so."""

    def __init__(self, features: int, hidden: int, rate: float = 0.5, *, rngs: nnx.Rngs):
        super().__init__(features, hidden, rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: jax.Array, deterministic: bool = False) -> jax.Array:
        normed = self.norm(x, use_running_average=deterministic)
        return self.dropout(super().__call__(normed), deterministic=deterministic)
