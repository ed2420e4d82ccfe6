"""MLPs in NNX for these stand-ins: a healthy one, and those that a contract refuses or gets wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from own_variables import Average

KERNEL = nnx.initializers.lecun_normal()


def named(*names: str | None) -> nnx.Initializer:
    return nnx.with_partitioning(KERNEL, names)


class Mlp(nnx.Module):
    """Two layers under T5X's names, with its axis names: [..., features] to the same."""

    def __init__(self, features: int, hidden: int, rate: float = 0.1, *, rngs: nnx.Rngs):
        inner, outer = named("embed", "mlp"), named("mlp", "embed")
        self.wi = nnx.Linear(features, hidden, use_bias=False, kernel_init=inner, rngs=rngs)
        self.wo = nnx.Linear(hidden, features, use_bias=False, kernel_init=outer, rngs=rngs)
        # T5X initialises with a key for params alone: a Dropout that is given rngs asks at once for one of its own.
        self.dropout, self.rngs = nnx.Dropout(rate, broadcast_dims=(-2,)), rngs

    def __call__(self, x: jax.Array, deterministic: bool = False) -> jax.Array:
        hidden = nnx.relu(self.wi(x))
        return self.wo(self.dropout(hidden, deterministic=deterministic, rngs=self.rngs))


class PlainMlp(Mlp):
    """Without axis names."""

    def __init__(self, features: int, hidden: int, rate: float = 0.1, *, rngs: nnx.Rngs):
        self.wi = nnx.Linear(features, hidden, rngs=rngs)
        self.wo = nnx.Linear(hidden, features, rngs=rngs)
        self.dropout, self.rngs = nnx.Dropout(rate), rngs


class UnawareMlp(PlainMlp):
    """Takes no mode at all."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x, deterministic=False)


class StatsMlp(Mlp):
    """With running statistics, which T5X's scans do not list."""

    def __init__(self, features: int, hidden: int, rate: float = 0.1, *, rngs: nnx.Rngs):
        super().__init__(features, hidden, rate, rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)

    def __call__(self, x: jax.Array, deterministic: bool = False) -> jax.Array:
        return super().__call__(self.norm(x, use_running_average=deterministic), deterministic)


class ListMlp(nnx.Module):
    """Its layers in a list: integer keys, which no by-name function of T5X takes."""

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs):
        inner, outer = named("embed", "mlp"), named("mlp", "embed")
        self.layers = nnx.List(
            [
                nnx.Linear(features, hidden, use_bias=False, kernel_init=inner, rngs=rngs),
                nnx.Linear(hidden, features, use_bias=False, kernel_init=outer, rngs=rngs),
            ]
        )

    def __call__(self, x: jax.Array, deterministic: bool = False) -> jax.Array:
        first, last = self.layers
        return last(nnx.relu(first(x)))


class DeafMlp(Mlp):
    """Drops out whatever `deterministic` says."""

    def __call__(self, x: jax.Array, deterministic: bool = False) -> jax.Array:
        return super().__call__(x, False)


class AveragingMlp(Mlp):
    """Keeps a mean of what it saw."""

    def __init__(self, features: int, hidden: int, rate: float = 0.1, *, rngs: nnx.Rngs):
        super().__init__(features, hidden, rate, rngs=rngs)
        self.average = Average(jnp.zeros(features))

    def __call__(self, x: jax.Array, deterministic: bool = False) -> jax.Array:
        self.average[...] = 0.9 * self.average[...] + 0.1 * x.mean(axis=(0, 1))
        return super().__call__(x - self.average[...], deterministic)


class EagerMlp(Mlp):
    """Asks for a key for dropout when it is made."""

    def __init__(self, features: int, hidden: int, rate: float = 0.1, *, rngs: nnx.Rngs):
        super().__init__(features, hidden, rate, rngs=rngs)
        self.dropout = nnx.Dropout(rate, broadcast_dims=(-2,), rngs=rngs)


class RenamedMlp(nnx.Module):
    """The same arithmetic under other names, one axis of them unknown to T5X's rules."""

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(features, hidden, use_bias=False, kernel_init=named("embed", "wide"), rngs=rngs)
        self.down = nnx.Linear(hidden, features, use_bias=False, kernel_init=named("wide", "embed"), rngs=rngs)

    def __call__(self, x: jax.Array, deterministic: bool = False) -> jax.Array:
        return self.down(nnx.relu(self.up(x)))
