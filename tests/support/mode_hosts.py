"""Hosts whose evaluation switch reaches the wrapped layer in them, and hosts whose switch does not."""

from __future__ import annotations

import contextlib
import contextvars
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge


class Regular(nnx.Module):
    """Drops and counts; one argument of an unusual name switches both."""

    def __init__(self, *, rngs):
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, quiet=False):
        return self.dropout(self.norm(x, use_running_average=quiet), deterministic=quiet)


class DropoutOnly(Regular):
    """The argument leaves the batch norm counting."""

    def __call__(self, x, quiet=False):
        return self.dropout(self.norm(x), deterministic=quiet)


class NormOnly(Regular):
    """The argument leaves the dropout dropping."""

    def __call__(self, x, quiet=False):
        return self.dropout(self.norm(x, use_running_average=quiet), deterministic=False)


class Noisy(nnx.Module):
    """Noise of its own, by an argument of its constructor."""

    def __init__(self, noisy=True, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.noisy, self.rngs = noisy, rngs

    def __call__(self, x):
        y = self.linear(x)
        return y + jax.random.normal(self.rngs.noise(), y.shape) if self.noisy else y


class Samples(Noisy):
    """Draws in every mode, as a sampler is meant to."""

    def __call__(self, x):
        return self.linear(x) + jax.random.normal(self.rngs.noise(), x.shape)


class CallCount(nnx.Variable):
    pass


class CountsCalls(nnx.Module):
    """Counts in every mode, as it is meant to."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.calls = CallCount(jnp.zeros(()))

    def __call__(self, x):
        self.calls[...] += 1
        return self.linear(x)


class Averages(CountsCalls):
    """Keeps an average in training, by an argument of the call."""

    def __call__(self, x, learn=True):
        if learn:
            self.calls[...] = 0.9 * self.calls[...] + 0.1 * x.mean()
        return self.linear(x - self.calls[...])


_train = contextvars.ContextVar("train", default=True)


@contextlib.contextmanager
def train_property(value):
    token = _train.set(value)
    try:
        yield
    finally:
        _train.reset(token)


class Field(nn.Module):
    """A field chooses the mode, by a property that Linen modules read; `hands_on` gives it to the layer too."""

    layer: Any = Regular
    train: bool = True
    hands_on: bool = False

    @nn.compact
    def __call__(self, x):
        with train_property(self.train):
            x = nn.Dropout(0.1, deterministic=not _train.get())(x)
            layer = bridge.to_linen(self.layer, name="layer")
            return layer(x, not _train.get()) if self.hands_on else layer(x)


class Argument(nn.Module):
    """An argument of the call chooses the mode."""

    layer: Any = Regular
    hands_on: bool = False

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.Dropout(0.1)(x, deterministic=deterministic)
        layer = bridge.to_linen(self.layer, name="layer")
        return layer(x, deterministic) if self.hands_on else layer(x)


class Unusual(nn.Module):
    """An argument of a name that says nothing chooses the mode."""

    layer: Any = Regular
    hands_on: bool = False

    @nn.compact
    def __call__(self, x, phase=False):
        x = nn.Dropout(0.1)(x, deterministic=phase)
        layer = bridge.to_linen(self.layer, name="layer")
        return layer(x, phase) if self.hands_on else layer(x)


class Builds(nn.Module):
    """Hands its mode to the layer's constructor."""

    layer: Any = Noisy
    train: bool = True
    hands_on: bool = False

    @nn.compact
    def __call__(self, x):
        noisy = {"noisy": self.train} if self.hands_on else {}
        return bridge.to_linen(self.layer, **noisy, name="layer")(x)


class Learns(nn.Module):
    layer: Any = Averages
    hands_on: bool = False

    @nn.compact
    def __call__(self, x, train=True):
        layer = bridge.to_linen(self.layer, name="layer")
        return layer(x, learn=train) if self.hands_on else layer(x)


class Residual(nn.Module):
    """Its fields choose no mode."""

    layer: Any = Regular
    residual: bool = True
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(4, use_bias=self.use_bias)(bridge.to_linen(self.layer, name="layer")(x))
        return x + y if self.residual else y


class Thin(nn.Module):
    """A layer from outside."""

    layer: Any
    train: bool = True
    hands_on: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.1, deterministic=not self.train)(x)
        return self.layer()(x, not self.train) if self.hands_on else self.layer()(x)
