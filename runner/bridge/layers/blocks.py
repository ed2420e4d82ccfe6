"""Blocks of several layers: an MLP and a transformer block."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

Activation = Callable[[jax.Array], jax.Array]


class MLP(nnx.Module):
    """Linear layers with an activation between them: [..., in_features] to [..., out_features].

    The params are `linear_0`, `linear_1`, …: string keys, which every checkpoint format keeps (an `nnx.List` has
    integer keys, and Orbax gives them back as strings where it is not told the target).

    Args:
      in_features: Last axis of x.
      hidden: Width between the linear layers.
      out_features: Last axis of the output.
      num_layers: Linear layers, at least 1.
      activation: Applied after each linear layer but the last.
      rngs: Stream `params`.
      **linear_kwargs: For every `nnx.Linear`: dtype, param_dtype, kernel_init, use_bias, …

    Raises:
      ValueError: No linear layer is left.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        *,
        num_layers: int = 2,
        activation: Activation = nnx.gelu,
        rngs: nnx.Rngs,
        **linear_kwargs: Any,
    ) -> None:
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers}: an MLP has at least one linear layer")
        self.num_layers = num_layers
        self.activation = activation
        widths = [in_features, *[hidden] * (num_layers - 1), out_features]
        for index, (width_in, width_out) in enumerate(itertools.pairwise(widths)):
            setattr(self, f"linear_{index}", nnx.Linear(width_in, width_out, rngs=rngs, **linear_kwargs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., in_features]. Returns [..., out_features]."""
        for index in range(self.num_layers):
            x = getattr(self, f"linear_{index}")(x if index == 0 else self.activation(x))
        return x


class TransformerBlock(nnx.Module):
    """A pre-norm encoder block: x + attention(norm(x)), then x + mlp(norm(x)); [..., length, features] to the same.

    After Xiong et al., "On Layer Normalization in the Transformer Architecture" (https://arxiv.org/abs/2002.04745).

    Args:
      features: Last axis of x and of the output, a multiple of num_heads.
      num_heads: Attention heads.
      hidden: Width inside the MLP.
      activation: Of the MLP.
      dropout_rate: Of each residual branch; at 0 no `dropout` stream is needed.
      deterministic: Leave dropout out, as in evaluation.
      dtype: Of the computation; by default that of x and the params together.
      param_dtype: Of the params.
      rngs: Stream `params`, and `dropout` if dropout_rate is above 0.
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        hidden: int,
        *,
        activation: Activation = nnx.gelu,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        dtype: Any = None,
        param_dtype: Any = jax.numpy.float32,
        rngs: nnx.Rngs,
    ) -> None:
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        self.attention_norm = nnx.LayerNorm(features, rngs=rngs, **dtypes)
        self.attention = nnx.MultiHeadAttention(num_heads, features, decode=False, rngs=rngs, **dtypes)
        self.mlp_norm = nnx.LayerNorm(features, rngs=rngs, **dtypes)
        self.mlp = MLP(features, hidden, features, activation=activation, rngs=rngs, **dtypes)
        # nnx.Dropout asks for its stream even at rate 0.
        needs_dropout = dropout_rate > 0
        self.dropout = nnx.Dropout(dropout_rate, deterministic=deterministic, rngs=rngs) if needs_dropout else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., length, features]. Returns the same shape."""
        x = x + self._drop(self.attention(self.attention_norm(x)))
        return x + self._drop(self.mlp(self.mlp_norm(x)))

    def _drop(self, x: jax.Array) -> jax.Array:
        return x if self.dropout is None else self.dropout(x)
