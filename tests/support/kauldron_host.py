"""A Kauldron model whose transformer block has its MLP from outside. Kauldron has to be installed (Python 3.12)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from flax.nnx import bridge
from kauldron import kd, kontext

WIDTH, HIDDEN, CLASSES = 8, 16, 2


class ToldToLinen(bridge.ToLinen):
    """A wrapped layer that is told the mode: Kauldron's property is seen by Linen modules alone."""

    is_training = kd.nn.train_property()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's output; it gets `deterministic`."""
        return super().__call__(*args, deterministic=not self.is_training, **kwargs)


class Model(nn.Module):
    """Kauldron's pre-norm block, a mean and a head: [batch, tokens, 8] to [batch, 2].

    Attributes:
      tokens: Where in Kauldron's context the input is.
      layer: Creates the MLP of the block; None leaves Kauldron's own.
    """

    tokens: kontext.Key = "batch.tokens"
    layer: Any = None

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """As Kauldron's train step calls it."""
        attention = kd.nn.ImprovedMultiHeadDotProductAttention(num_heads=2, parent=None)
        # Without a parent here, it is the block that gives it its name, `mlp`.
        mlp = kd.nn.TransformerMLP(HIDDEN, parent=None) if self.layer is None else self.layer().clone(parent=None)
        block = kd.nn.PreNormBlock(attention=attention, mlp=mlp, name="block")
        return nn.Dense(CLASSES, name="head")(block(tokens).mean(axis=1))
