"""Layers with one of NNX's own transforms inside: what the bridge meets when a layer scans, remats, jits or vmaps.

Each takes `rngs` and is called with one array, as in `layers`.
"""

from __future__ import annotations

import jax
from flax import nnx


class Scanned(nnx.Module):
    """Blocks stacked by `nnx.vmap` and run one after the other by `nnx.scan`: [..., features] to the same.

    Every param has the layer axis first: `layers/kernel` is [num_layers, features, features].

    Args:
      features: Last axis of x and of the output.
      num_layers: Linear layers, each followed by tanh.
      rngs: Stream `params`.
    """

    def __init__(self, features: int, *, num_layers: int = 3, rngs: nnx.Rngs) -> None:
        self.num_layers = num_layers
        self.layers = _stacked(num_layers, features, features, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., features]. Returns the same shape."""

        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(layer: nnx.Linear, x: jax.Array) -> jax.Array:
            return nnx.tanh(layer(x))

        return run(self.layers, x)


class Ensemble(nnx.Module):
    """Linear layers side by side by `nnx.vmap`, and their mean: [..., in_features] to [..., out_features].

    Every param has the member axis first: `members/kernel` is [num_members, in_features, out_features].

    Args:
      in_features: Last axis of x.
      out_features: Last axis of the output.
      num_members: Linear layers.
      rngs: Stream `params`.
    """

    def __init__(self, in_features: int, out_features: int, *, num_members: int = 3, rngs: nnx.Rngs) -> None:
        self.members = _stacked(num_members, in_features, out_features, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., in_features]. Returns [..., out_features]."""
        return nnx.vmap(lambda member, x: member(x), in_axes=(0, None))(self.members, x).mean(axis=0)


class Rematerialized(nnx.Module):
    """A linear layer and tanh under `nnx.remat`: [..., in_features] to [..., out_features].

    Args:
      in_features: Last axis of x.
      out_features: Last axis of the output.
      rngs: Stream `params`.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(in_features, out_features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., in_features]. Returns [..., out_features]."""
        return nnx.remat(_linear_tanh)(self.linear, x)


class Jitted(nnx.Module):
    """A linear layer and tanh under `nnx.jit`: [..., in_features] to [..., out_features].

    Args:
      in_features: Last axis of x.
      out_features: Last axis of the output.
      rngs: Stream `params`.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(in_features, out_features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., in_features]. Returns [..., out_features]."""
        return nnx.jit(_linear_tanh)(self.linear, x)


def _linear_tanh(linear: nnx.Linear, x: jax.Array) -> jax.Array:
    return nnx.tanh(linear(x))


def _stacked(num: int, in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Linear:
    @nnx.split_rngs(splits=num)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs: nnx.Rngs) -> nnx.Linear:
        return nnx.Linear(in_features, out_features, rngs=rngs)

    return make(rngs)
