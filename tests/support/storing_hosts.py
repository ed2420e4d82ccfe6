"""A pipeline's own wrapper that stores the layer's `nnx.Variable`s themselves, and no arrays, as Kauldron's does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import core, nnx
from flax import linen as nn


class Normed(nnx.Module):
    """Weights and statistics."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(width, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, use_running_average=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.linear(x))


class Storing(nn.Module):
    """The wrapper; what is not among `kinds` is made again at every apply."""

    nnx_class: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = core.FrozenDict()
    kinds: tuple[str, ...] = ("params", "batch_stats")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        seed = self.make_rng("params") if self.is_initializing() else 0
        layer = self.nnx_class(*self.args, rngs=nnx.Rngs(seed), **self.kwargs)
        for kind, of_kind in (("params", nnx.Param), ("batch_stats", nnx.BatchStat)):
            for name, part in nnx.state(layer, of_kind).raw_mapping.items() if kind in self.kinds else ():
                if self.is_initializing():
                    self.put_variable(kind, name, part)
                nnx.update(layer, nnx.State({name: self.get_variable(kind, name)}))
        return layer(x)


class Host(nn.Module):
    """The layer before a head."""

    kinds: tuple[str, ...] = ("params", "batch_stats")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(2, name="head")(Storing(Normed, (4,), kinds=self.kinds, name="block")(x))
