"""Layers that hold others in a sequence, a list or a dict."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from runner.bridge.layers.blocks import Activation


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
