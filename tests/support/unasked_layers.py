"""Layers and hosts of which a check can't ask its question, each beside one of which it can."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

WIDTH = 4


class Plain(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return self.linear(x)


class OneInstance(Plain):
    """Knows the last instance that was made, and only that answers: no copy can be called."""

    last = None

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        OneInstance.last = id(self)

    def __call__(self, x):
        if OneInstance.last != id(self):
            raise RuntimeError("another instance is the one in use")
        return super().__call__(x)


class OneInstanceStops(OneInstance):
    """Its update is lost as well, which can be asked."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.mean = nnx.BatchStat(jnp.zeros(WIDTH))

    def __call__(self, x):
        self.mean.set_value(x.mean(0)[:2])
        return super().__call__(x)


class CallsBack(Plain):
    """Its callback has no answer."""

    raises = True

    def __call__(self, x):
        return jax.pure_callback(self._outside, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def _outside(self, x):
        if self.raises:
            raise RuntimeError("the server is gone")
        return x


class Answers(CallsBack):
    raises = False


class Encodes(Plain):
    """Called by a method whose argument switches the dropout; calling the module itself raises."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        raise NotImplementedError

    def encode(self, x, *, deterministic=False):
        return self.dropout(self.linear(x), deterministic=deterministic)


class EncodesOneWay(Encodes):
    """Takes the argument and leaves it alone."""

    def encode(self, x, *, deterministic=False):
        return self.dropout(self.linear(x), deterministic=False)


class Calls(nn.Module):
    """A host that calls the layer as often as the time before."""

    layer: object

    @nn.compact
    def __call__(self, x):
        for _ in range(self.number()):
            x = self.layer(x)
        return x

    def number(self):
        return 1


TURNS = itertools.count()


class CallsInTurn(Calls):
    """Calls it once and twice, in turn: which call is which can't be told."""

    def number(self):
        return 1 + next(TURNS) % 2


class CountingHost(nn.Module):
    """Calls the layer by another method, with a second array by name."""

    layer: object

    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH)(self.layer(x, scale=2 * x, nnx_method="scaled"))


class CountsScaled(Plain):
    """Counts the calls of a method in Python, and reads the count."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.calls = 0

    def scaled(self, x, *, scale):
        self.calls += 1
        return self.linear(x) * scale * self.calls


class KeepsNoCount(CountsScaled):
    """Counts, and no one reads it."""

    def scaled(self, x, *, scale):
        self.calls += 1
        return self.linear(x) * scale
