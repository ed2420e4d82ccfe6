"""Layers that need more memory than any machine has: in their variables, or between input and output."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class Sorts(nnx.Module):
    """Holds little, and makes the square of x's width on its way, of which nothing can be left out."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.scale[...] * jax.lax.sort(jnp.outer(x, x).ravel())[0]
