"""A Linen module inside an NNX layer."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge


class LinenInside(nnx.Module):
    """An MLP whose first layer is a Linen `nn.Dense`, by `ToNNX`: [..., in_features] to [..., out_features].

    The Dense gets its variables here, in the constructor: without `lazy_init` a Linen init of this layer would give no
    variables for it and raise nothing.

    Args:
      in_features: Last axis of x.
      hidden: Features of the Dense.
      out_features: Last axis of the output.
      activation: After the Dense.
      rngs: Stream `params`.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        *,
        activation: Callable[[jax.Array], jax.Array] = nnx.relu,
        rngs: nnx.Rngs,
    ) -> None:
        # Without a parent: it would else become a submodule of the Linen module that is just being run.
        dense = nn.Dense(hidden, parent=None)
        self.dense = bridge.ToNNX(dense, rngs=rngs).lazy_init(jnp.zeros((1, in_features)))
        self.linear = nnx.Linear(hidden, out_features, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., in_features]."""
        return self.linear(self.activation(self.dense(x)))
