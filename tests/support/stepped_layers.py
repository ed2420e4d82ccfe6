"""Layers whose gradient is zero in one call and not by their code, each beside one whose weight never gets any."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

WIDTH = 4


class Cell(nnx.Module):
    """A recurrent cell of our own, stepped once from zeros."""

    def __init__(self, *, rngs):
        self.i = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.h = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.i(x) + self.step(jnp.zeros((x.shape[0], WIDTH)), x))

    def step(self, carry, x):
        return self.h(carry)


class StoppedCell(Cell):
    def step(self, carry, x):
        return jax.lax.stop_gradient(self.h(carry + x))


class ArgmaxCell(Cell):
    """Behind the zeros of its state there is an argmax."""

    def step(self, carry, x):
        return jax.nn.one_hot(jnp.argmax(self.h(carry), -1), WIDTH)


class StateSpace(nnx.Module):
    """A diagonal recurrence over the rows, scanned; a sequence of one row."""

    def __init__(self, *, rngs):
        self.a = nnx.Param(jax.random.normal(rngs.params(), (WIDTH,)))
        self.b = nnx.Param(jnp.ones(WIDTH))

    def __call__(self, x):
        def step(state, row):
            state = self.kept(self.a[...]) * state + self.b[...] * row
            return state, state

        return jax.lax.scan(step, jnp.zeros(WIDTH), x[:1])[1]

    def kept(self, a):
        return jnp.exp(a)


class RoundedSpace(StateSpace):
    def kept(self, a):
        return jnp.round(a)


class CarriedState(nnx.Module):
    """Its first state is a Variable of zeros."""

    def __init__(self, *, rngs):
        self.h = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)
        self.i = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.state = nnx.Cache(jnp.zeros(WIDTH))

    def __call__(self, x):
        return nnx.sigmoid(self.i(x)) * (1 + self.h(self.state[...]))


class Siamese(nnx.Module):
    """One encoder for two views: the bias cancels."""

    def __init__(self, *, rngs):
        self.encoder = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return self.encoder(x) - self.encoder(2 * x)


class StoppedSiamese(Siamese):
    def __call__(self, x):
        return x + jax.lax.stop_gradient(self.encoder(x) - self.encoder(2 * x))


class SameViews(Siamese):
    """Both views are one where nothing is augmented."""

    def __call__(self, x):
        return (self.encoder(x) - self.encoder(x)) ** 2


class Ranked(Siamese):
    """Compares two rows of one batch, by one call."""

    def __call__(self, x):
        scores = self.encoder(x)
        return scores[:1] - scores[1:2]


class SignRanked(Siamese):
    def __call__(self, x):
        scores = self.encoder(x)
        return x[:1] + jnp.sign(scores[:1] - scores[1:2])


class Thresholded(nnx.Module):
    """Another slope counts beyond what random x reach."""

    def __init__(self, *, rngs):
        self.near, self.far = nnx.Param(jnp.ones(WIDTH)), nnx.Param(jnp.ones(WIDTH))

    def __call__(self, x):
        return jnp.where(jnp.abs(x) < 8, self.near[...] * x, self.far[...] * x)


class Masked(nnx.Module):
    """All that it computes is multiplied by zeros."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return x + jnp.zeros(WIDTH) * self.linear(x)


class MaskingHost(nn.Module):
    """A host whose weights for the layer are zeros."""

    layer: object

    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH)(x) + jnp.zeros(WIDTH) * self.layer(x)


class ScanningHost(nn.Module):
    """A stack of blocks of the layer by `nn.scan`."""

    layer: object

    @nn.compact
    def __call__(self, x):
        def block(layer, x, _):
            return x + layer(x), None

        stack = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return stack(self.layer, x, None)[0]
