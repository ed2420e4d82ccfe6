"""Layers that flax has only as parts, ready to be a `layer.target`.

Each takes `rngs` and gives a module that is called with one array. What takes module instances in flax
(`nnx.Sequential`, `nnx.SpectralNorm`) is a factory here: the bridge builds a layer anew at every call, and an instance
that was made outside can't be used under jit. More of them are in `recurrent`, `transformed` and `stateful`.
"""

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


def sequential(
    in_features: int,
    hidden: int,
    out_features: int,
    *,
    activation: Activation = nnx.relu,
    rngs: nnx.Rngs,
    **linear_kwargs: Any,
) -> nnx.Sequential:
    """Linear, activation, linear as an `nnx.Sequential`: [..., in_features] to [..., out_features].

    Its params have integer keys: `layers/0/kernel`, `layers/2/kernel`.

    Args:
      in_features: Last axis of x.
      hidden: Width between the two linear layers.
      out_features: Last axis of the output.
      activation: Between the two.
      rngs: Stream `params`.
      **linear_kwargs: For both `nnx.Linear`: dtype, param_dtype, kernel_init, use_bias, …
    """
    first = nnx.Linear(in_features, hidden, rngs=rngs, **linear_kwargs)
    return nnx.Sequential(first, activation, nnx.Linear(hidden, out_features, rngs=rngs, **linear_kwargs))


class Listed(nnx.Module):
    """Linear layers in an `nnx.List`, one after the other: [..., in_features] to [..., out_features].

    Its params have integer keys: `layers/0/kernel`, `layers/1/kernel`.

    Args:
      in_features: Last axis of x.
      hidden: Width between the two linear layers.
      out_features: Last axis of the output.
      activation: Between the two.
      rngs: Stream `params`.
    """

    def __init__(
        self, in_features: int, hidden: int, out_features: int, *, activation: Activation = nnx.relu, rngs: nnx.Rngs
    ) -> None:
        self.activation = activation
        first = nnx.Linear(in_features, hidden, rngs=rngs)
        self.layers = nnx.List([first, nnx.Linear(hidden, out_features, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., in_features]. Returns [..., out_features]."""
        first, last = self.layers
        return last(self.activation(first(x)))


class Keyed(nnx.Module):
    """Two linear layers side by side in an `nnx.Dict`, one a gate: [..., in_features] to [..., out_features].

    Its params have string keys: `layers/gate/kernel`, `layers/value/kernel`.

    Args:
      in_features: Last axis of x.
      out_features: Last axis of the output.
      activation: Of the gate.
      rngs: Stream `params`.
    """

    def __init__(
        self, in_features: int, out_features: int, *, activation: Activation = nnx.sigmoid, rngs: nnx.Rngs
    ) -> None:
        self.activation = activation
        names = ("gate", "value")
        self.layers = nnx.Dict({name: nnx.Linear(in_features, out_features, rngs=rngs) for name in names})

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., in_features]. Returns [..., out_features]."""
        return self.activation(self.layers["gate"](x)) * self.layers["value"](x)


def spectral_norm(in_features: int, out_features: int, *, rngs: nnx.Rngs, **norm_kwargs: Any) -> nnx.SpectralNorm:
    """An `nnx.SpectralNorm` around an `nnx.Linear`: [..., in_features] to [..., out_features].

    Args:
      in_features: Last axis of x.
      out_features: Last axis of the output.
      rngs: Stream `params`.
      **norm_kwargs: For `nnx.SpectralNorm`: n_steps, epsilon, update_stats, …
    """
    return nnx.SpectralNorm(nnx.Linear(in_features, out_features, rngs=rngs), rngs=rngs, **norm_kwargs)


def weight_norm(in_features: int, out_features: int, *, rngs: nnx.Rngs, **norm_kwargs: Any) -> nnx.WeightNorm:
    """An `nnx.WeightNorm` around an `nnx.Linear`: [..., in_features] to [..., out_features].

    Its scales are raw arrays, not Variables: they come in a collection that is called after their type.

    Args:
      in_features: Last axis of x.
      out_features: Last axis of the output.
      rngs: Stream `params`.
      **norm_kwargs: For `nnx.WeightNorm`: use_scale, feature_axes, scale_init, …
    """
    return nnx.WeightNorm(nnx.Linear(in_features, out_features, rngs=rngs), rngs=rngs, **norm_kwargs)


def lora_with_base(in_features: int, lora_rank: int, out_features: int, *, rngs: nnx.Rngs, **kwargs: Any) -> nnx.LoRA:
    """An `nnx.LoRA` around an `nnx.Linear`: [..., in_features] to [..., out_features].

    Args:
      in_features: Last axis of x.
      lora_rank: Width between the two adapter matrices.
      out_features: Last axis of the output.
      rngs: Stream `params`.
      **kwargs: For `nnx.LoRA`: dtype, param_dtype, a_initializer, b_initializer, …
    """
    base = nnx.Linear(in_features, out_features, rngs=rngs)
    return nnx.LoRA(in_features, lora_rank, out_features, base_module=base, rngs=rngs, **kwargs)
