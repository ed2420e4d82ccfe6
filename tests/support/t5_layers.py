"""MLPs for T5X and Flaxformer, in NNX: the healthy one and those that their contracts refuse or that they get wrong."""

from __future__ import annotations

import jax
from flax import nnx

KERNEL = nnx.initializers.lecun_normal()


def named(*names: str | None) -> nnx.Initializer:
    return nnx.with_partitioning(KERNEL, names)


class Mlp(nnx.Module):
    """T5's MLP of one activation under the names that T5X's has: [..., features] to the same."""

    def __init__(self, features: int, hidden: int, rate: float = 0.1, *, rngs: nnx.Rngs):
        inner, outer = named("embed", "mlp"), named("mlp", "embed")
        self.wi = nnx.Linear(features, hidden, use_bias=False, kernel_init=inner, rngs=rngs)
        self.wo = nnx.Linear(hidden, features, use_bias=False, kernel_init=outer, rngs=rngs)
        # T5X initialises with a key for params alone: a Dropout that is given rngs asks at once for one of its own.
        self.dropout, self.rngs = nnx.Dropout(rate, broadcast_dims=(-2,)), rngs

    def __call__(self, x: jax.Array, deterministic: bool = False) -> jax.Array:
        hidden = nnx.relu(self.wi(x))
        return self.wo(self.dropout(hidden, deterministic=deterministic, rngs=self.rngs))


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


class FlaxformerMlp(Mlp):
    """The same for Flaxformer, which says `enable_dropout` and, in decoders, how it decodes."""

    def __call__(
        self,
        x: jax.Array,
        decode: bool = False,
        prefill: bool = False,
        prefill_lengths: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
    ) -> jax.Array:
        return super().__call__(x, not enable_dropout)
