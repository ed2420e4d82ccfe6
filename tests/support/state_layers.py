"""Layers whose mode or state is kept well or badly, side by side, for the tests of several checks."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge
from flax.traverse_util import flatten_dict


class Drops(nnx.Module):
    """Nothing says from outside whether it drops; a factory can."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.linear(x))


class AlwaysDrops(Drops):
    def __call__(self, x):
        return self.dropout(self.linear(x), deterministic=False)


class IgnoresTrain(Drops):
    """Takes the argument, and does nothing with it."""

    def __call__(self, x, train=True):
        return self.dropout(self.linear(x), deterministic=False)


class DropsAtRate(nnx.Module):
    """Always drops, at a rate that the constructor takes."""

    def __init__(self, rate=0.5, *, rngs):
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        return self.dropout(x, deterministic=False)


class AlwaysCounts(nnx.Module):
    def __init__(self, *, rngs):
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.norm(x, use_running_average=False)


class NeverCounts(AlwaysCounts):
    """Frozen statistics: another layer, and not a mistake."""

    def __call__(self, x):
        return self.norm(x, use_running_average=True)


class DropsUnused(AlwaysCounts):
    """Has a dropout that the call leaves alone."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return x * self.norm.scale[...]


class SpectralInside(nnx.Module):
    def __init__(self, *, rngs):
        self.norm = nnx.SpectralNorm(nnx.Linear(4, 4, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.norm(x, update_stats=True)


class EatsDefault(nnx.Module):
    def __init__(self, sizes=[4] * 40, *, rngs):
        sizes.pop()
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in sizes])

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class CopiesDefault(EatsDefault):
    def __init__(self, sizes=[4] * 3, *, rngs):
        super().__init__(list(sizes), rngs=rngs)


TABLE = {}


class KeepsTracer(nnx.Module):
    def __init__(self, *, rngs):
        if 4 not in TABLE:
            TABLE[4] = jnp.sin(jnp.arange(4.0)) + jax.random.normal(rngs.params(), (4,))
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.linear(x + TABLE[x.shape[-1]])


@functools.cache
def angles(width):
    return jnp.sin(jnp.arange(width))


class CachesTracer(KeepsTracer):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.linear(x + angles(x.shape[-1]))


@functools.cache
def numpy_angles(width):
    return np.sin(np.arange(width, dtype=np.float32))


class CachesNumpy(CachesTracer):
    def __call__(self, x):
        return self.linear(x + numpy_angles(x.shape[-1]))


class Numbered(nnx.Module):
    def __init__(self, *, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs)])

    def __call__(self, x):
        return self.layers[0](x)


class JoinsPaths(nn.Module):
    """Looks at its own params by path."""

    make: Any

    @nn.compact
    def __call__(self, x):
        y = bridge.to_linen(self.make, name="mine")(x)
        flatten_dict(self.variables["params"], sep="/")
        return y


class ReturnsNothing(Drops):
    def __call__(self, x):
        self.linear(x)


class Normed(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.linear(self.norm(x))


class NormedBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return bridge.to_linen(Normed, name="layer")(x), None


class Scans(nn.Module):
    """A stack of blocks by `nn.scan`, with an axis for these collections."""

    collections: tuple[str, ...]

    @nn.compact
    def __call__(self, x):
        axes = dict.fromkeys(self.collections, 0)
        return nn.scan(NormedBlock, variable_axes=axes, split_rngs={"params": True}, length=2)(name="blocks")(x, None)[
            0
        ]


class Ignores(nn.Module):
    """Calls a layer without weights, and goes on with x."""

    @nn.compact
    def __call__(self, x):
        bridge.to_linen(nnx.Dropout, 0.5, name="mine")(x)
        return nn.Dense(4)(x)


class SowsIt(Ignores):
    """Goes on with x too, and hands on what the layer gives as a loss."""

    @nn.compact
    def __call__(self, x):
        self.sow("intermediates", "loss", bridge.to_linen(nnx.Dropout, 0.5, name="mine")(x).sum())
        return nn.Dense(4)(x)


class JitsIt(nn.Module):
    @nn.jit
    @nn.compact
    def __call__(self, x):
        return nn.remat(lambda host, x: bridge.to_linen(nnx.Linear, 4, 4, name="mine")(x))(self, x)


class NeverCalls(nn.Module):
    layer: Any

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x)


class Calls(NeverCalls):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(self.layer()(x))
