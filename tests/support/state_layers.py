"""Layers whose mode or state is kept well or badly, side by side, for the tests of several checks."""

from __future__ import annotations

from flax import nnx


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
