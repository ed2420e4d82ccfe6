"""Layers that are called with more than one positional array, or by another method."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class Cross(nnx.Module):
    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.attn = nnx.MultiHeadAttention(2, dim, decode=False, rngs=rngs)

    def __call__(self, x, context):
        return self.attn(x, context)


class ByKeyword(nnx.Module):
    def __init__(self, din: int, dout: int, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(din, dout, rngs=rngs)

    def __call__(self, *, inputs):
        return self.lin(inputs)


class Observations(ByKeyword):
    def __call__(self, obs):
        y = self.lin(obs["speed"])
        return y + obs["image"].sum() if "image" in obs else y


class Masked(ByKeyword):
    def __call__(self, x, mask=None):
        assert mask is None or mask.dtype == bool
        y = self.lin(x)
        return y if mask is None else jnp.where(mask, y, 0.0)


class Noisy(ByKeyword):
    """Takes its key in the call."""

    def __call__(self, x, key, scale=None):
        noise = jax.random.normal(key, x.shape)
        return self.lin(x + noise * (1.0 if scale is None else scale.at[0].set(1.0)))


class Encodes(ByKeyword):
    """Another method."""

    def __call__(self, x):
        return self.lin(x)

    def encode(self, x, *, twice: bool = False):
        return jnp.tanh(self.lin(x)) * (2 if twice else 1)
