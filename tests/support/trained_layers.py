"""Layers whose weights can't be trained, or only under a condition, each beside a healthy one that looks like it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from own_variables import Average

WIDTH = 4


class Turn(nnx.Module):
    """One complex weight a feature; real in, real out."""

    def __init__(self, dim=WIDTH, *, rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (dim,), jnp.complex64))

    def __call__(self, x):
        y = x * self.w[...]
        return jnp.concatenate([y.real, y.imag], -1)


class StillTurn(Turn):
    """Complex weights behind a stopped gradient."""

    def __call__(self, x):
        y = x * jax.lax.stop_gradient(self.w[...])
        return jnp.concatenate([y.real, y.imag], -1)


class Ordered(nnx.Module):
    """Puts features in another order, kept in a Variable of `kind`."""

    kind = nnx.Variable
    dtype = jnp.int32

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.order = self.kind(jax.random.permutation(rngs.params(), WIDTH).astype(self.dtype))

    def __call__(self, x):
        return self.linear(jnp.where(self.order[...] > 0, x, -x))


class OrderParam(Ordered):
    kind = nnx.Param


class MaskParam(OrderParam):
    dtype = jnp.bool_


class ByteParam(OrderParam):
    dtype = jnp.int8


class MaskVariable(Ordered):
    dtype = jnp.bool_


class Counter(nnx.Variable):
    pass


class Prompt(nnx.Variable):
    pass


class Adapter(nnx.Param):
    pass


class Counts(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.calls = Counter(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] += 1
        return self.linear(x)


class Averages(nnx.Module):
    """Its average is of a type of its own, and changes at each call."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.average = Average(jnp.zeros(WIDTH))

    def __call__(self, x):
        self.average[...] = 0.9 * self.average[...] + 0.1 * x.mean(0)
        return self.linear(x - self.average[...])


class Normed(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, use_running_average=True, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.linear(x))


class Adapted(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.down = Adapter(jax.random.normal(rngs.params(), (WIDTH, 2)))
        self.up = Adapter(jnp.zeros((2, WIDTH)))

    def __call__(self, x):
        return self.linear(x) + x @ self.down[...] @ self.up[...]


class Prompted(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.prompt = Prompt(jax.random.normal(rngs.params(), (WIDTH,)))

    def __call__(self, x):
        return self.linear(x + self.prompt[...])


class Gated(nnx.Module):
    """Two experts and a gate: `hard` opens one by argmax, which has no gradient."""

    hard = True

    def __init__(self, *, rngs):
        self.gate = nnx.Linear(WIDTH, 2, rngs=rngs)
        self.experts = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        scores = self.gate(x)
        weights = jax.nn.one_hot(jnp.argmax(scores, -1), 2)
        if not self.hard:
            weights = weights * nnx.softmax(scores)
        return sum(weights[:, num, None] * expert(x) for num, expert in enumerate(self.experts))


class SoftGated(Gated):
    hard = False


@jax.custom_vjp
def binary(x):
    return jnp.sign(x)


binary.defvjp(lambda x: (binary(x), x), lambda x, g: (0 * g * x,))


@jax.custom_vjp
def passed_through(x):
    return jnp.sign(x)


passed_through.defvjp(lambda x: (passed_through(x), None), lambda _, g: (g,))


class Binary(nnx.Module):
    """Weights of one bit, whose own rule gives them a gradient of zero."""

    sign = staticmethod(binary)

    def __init__(self, *, rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (WIDTH, WIDTH)))

    def __call__(self, x):
        return x @ self.sign(self.w[...])


class StraightBinary(Binary):
    sign = staticmethod(passed_through)


class Root(nnx.Module):
    """The gradient of its scale is infinite at the start."""

    start = 0.0

    def __init__(self, *, rngs):
        self.scale = nnx.Param(jnp.full(WIDTH, self.start))

    def __call__(self, x):
        return x * jnp.sqrt(self.scale[...])


class RootOfOne(Root):
    start = 1.0


class SafeNorm(nnx.Module):
    """Divides by a norm that may be zero; `safe` keeps the gradient from that branch."""

    safe = True

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        y = self.linear(x) * (x > 1e3)  # zero
        squares = (y**2).sum(-1, keepdims=True)
        norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0)) if self.safe else jnp.sqrt(squares)
        return self.linear(x) + jnp.where(squares > 0, norm, 0.0)


class UnsafeNorm(SafeNorm):
    safe = False


class ZeroHead(nnx.Module):
    """A head that starts at zero, as ViT's: it hides the gradient of all before it."""

    def __init__(self, *, rngs):
        self.body = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 2, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.body(x)))


class Residual(nnx.Module):
    """A branch that is opened by a scale of zero (ReZero), over a running count of calls (a warmup)."""

    def __init__(self, *, rngs):
        self.branch = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.scale = nnx.Param(jnp.zeros(()))
        self.warm = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.calls = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        opened = self.calls[...].astype(jnp.float32) / 100
        self.calls[...] += 1
        return x + self.scale[...] * self.branch(x) + opened * self.warm(x)


class ScaledByZero(nn.Module):
    """A host that multiplies the layer's output by zero."""

    layer: object
    scale: float = 0.0

    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH)(x) + self.scale * self.layer(x)


class ZeroDense(nn.Module):
    """A host whose head starts at zero."""

    layer: object

    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH, kernel_init=nn.initializers.zeros)(self.layer(x))


class RawWeight(nnx.Module):
    """A weight that is drawn and is no Variable."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.weight = nnx.data(jax.random.normal(rngs.params(), (WIDTH, WIDTH)))

    def __call__(self, x):
        return self.linear(x) @ self.weight


class FloatOutput(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return {"y": self.linear(x), "loss": 0.0, "count": 3, "table": np.zeros(2)}


class Spectrum(nnx.Module):
    """Complex out."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return jnp.fft.fft(self.linear(x))


class HeadWhenTraining(nnx.Module):
    """A second head, for training alone."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.aux = nnx.Linear(WIDTH, 2, use_bias=False, rngs=rngs)

    def __call__(self, x, train: bool = False):
        y = self.linear(x)
        return (y, self.aux(y)) if train else y


class HeadNeverUsed(HeadWhenTraining):
    def __call__(self, x, train: bool = False):
        y = self.linear(x)
        return (y, y) if train else y


class TokenWhereMasked(nnx.Module):
    """A weight in place of what a mask leaves out."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.token = nnx.Param(jax.random.normal(rngs.params(), (WIDTH,)))

    def __call__(self, x, mask=None):
        if mask is not None:
            x = jnp.where(mask[..., None], self.token[...], x)
        return self.linear(x)


class TokenForgotten(TokenWhereMasked):
    def __call__(self, x, mask=None):
        return self.linear(x if mask is None else x * mask[..., None])


class TokenByKey(TokenWhereMasked):
    """The optional argument is none that can be guessed, and no reason to pass."""

    def __call__(self, x, table=None):
        return self.linear(x if table is None else x + table["token"] * self.token[...])


class Autoencoder(nnx.Module):
    def __init__(self, *, rngs):
        self.encoder = nnx.Linear(WIDTH, 2, use_bias=False, rngs=rngs)
        self.decoder = nnx.Linear(2, WIDTH, use_bias=False, rngs=rngs)

    def encode(self, x):
        return self.encoder(x)

    def __call__(self, x):
        return self.decoder(self.encoder(x))


class Codebook(nnx.Module):
    """Vectors that a sown loss trains, as in a VQ-VAE; the output passes the gradient on to what comes before."""

    sows = True

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.codes = nnx.Param(jax.random.normal(rngs.params(), (8, WIDTH)))

    def __call__(self, x):
        y, codes, stop = self.linear(x), self.codes[...], jax.lax.stop_gradient
        nearest = codes[jnp.argmin(((y[..., None, :] - codes) ** 2).sum(-1), -1)]
        if self.sows:
            self.sow(nnx.Intermediate, "loss", ((nearest - stop(y)) ** 2).mean())
        return y + stop(nearest - y)


class SilentCodebook(Codebook):
    sows = False


class SowsOfWeight(nnx.Module):
    """A weight that only a sown value reads."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.probe = nnx.Linear(WIDTH, 1, use_bias=False, rngs=rngs)

    def __call__(self, x):
        self.sow(nnx.Intermediate, "guess", self.probe(x))
        return self.linear(x)


class RootWherePositive(nnx.Module):
    """Its output is finite, and the gradient of a negative x is not."""

    def __init__(self, *, rngs):
        self.scale = nnx.Param(jnp.ones(WIDTH))

    def __call__(self, x):
        return jnp.where(x > 0, jnp.sqrt(x), 0.0) * self.scale[...]


class SafeRoot(RootWherePositive):
    """As the check suggests."""

    def __call__(self, x):
        safe = jnp.where(x > 0, x, 1)
        return jnp.where(x > 0, jnp.sqrt(safe), 0) * self.scale[...]


class RoundsInput(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return self.linear(jnp.round(x * 127) / 127)


class RoundsStraight(RoundsInput):
    """Rounds, and passes the gradient on as if it did not."""

    def __call__(self, x):
        return self.linear(x + jax.lax.stop_gradient(jnp.round(x * 127) / 127 - x))
