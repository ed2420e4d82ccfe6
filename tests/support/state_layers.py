"""Layers whose mode or state is kept well or badly, side by side, for the tests of several checks."""

from __future__ import annotations

import collections
import dataclasses
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


class MovesMean(nnx.Module):
    def __init__(self, *, rngs):
        self.mean = nnx.BatchStat(jnp.zeros((4,)))
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        self.mean.set_value(0.9 * self.mean.get_value() + 0.1 * x.mean(0))
        return self.linear(x - self.mean.get_value())


class ReshapesMean(MovesMean):
    def __call__(self, x):
        self.mean.set_value(x.mean(-1))
        return self.linear(x)


class DriftsToFloat(nnx.Module):
    def __init__(self, *, rngs):
        self.step = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.step.set_value(self.step.get_value() + 0.5)
        return x


class NormalisesAtUse(nnx.Module):
    def __init__(self, *, rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (4, 4)))

    def __call__(self, x):
        return x @ (self.w[...] / jnp.linalg.norm(self.w[...], axis=0))


class RewritesParam(NormalisesAtUse):
    def __call__(self, x):
        self.w.set_value(self.w[...] / jnp.linalg.norm(self.w[...], axis=0))
        return x @ self.w[...]


class WritesSameParam(NormalisesAtUse):
    def __call__(self, x):
        self.w.set_value(self.w.get_value())
        return x @ self.w[...]


class MakesParam(nnx.Module):
    def __init__(self, *, rngs):
        self.rngs = rngs

    def __call__(self, x):
        if not hasattr(self, "w"):
            self.w = nnx.Param(jax.random.normal(self.rngs.params(), (4, 4)))
        return x @ self.w[...]


class InPython(nnx.Module):
    """The base of layers that keep something in Python attributes."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.calls, self.seen, self.last = 0, [], None
        self.mean = jnp.zeros((4,))


class CountsCalls(InPython):
    def __call__(self, x):
        self.calls += 1
        return self.linear(x) * min(1.0, self.calls / 10)


class WarmsUp(InPython):
    """Does something else, but not before the hundredth call."""

    def __call__(self, x):
        self.calls += 1
        return self.linear(x) * (1.0 if self.calls > 100 else 0.5)


class FillsList(InPython):
    def __call__(self, x):
        self.seen.append(x.mean())
        return self.linear(x) - sum(self.seen)


class RunsBareMean(InPython):
    """Keeps a running mean, and reads it in evaluation only."""

    def __call__(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.linear(x)


class TakesLast(InPython):
    def __call__(self, x):
        self.last = self.linear(x) if self.last is None else self.linear(x) + self.last
        return self.last


@dataclasses.dataclass
class Notes:
    """A record of the layer's own, no node of its tree."""

    calls: int = 0
    seen: Any = None
    inner: Any = None


class CountsInRecord(InPython):
    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.notes = Notes(inner=Notes())

    def __call__(self, x):
        self.notes.inner.calls += 1
        return self.linear(x) * min(1.0, self.notes.inner.calls / 10)


class MeanInRecord(CountsInRecord):
    def __call__(self, x):
        before = 0.0 if self.notes.seen is None else self.notes.seen
        self.notes.seen = 0.9 * before + 0.1 * x.mean(0)
        return self.linear(x - before)


class FillsQueue(InPython):
    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.notes = collections.deque(maxlen=3)

    def __call__(self, x):
        self.notes.append(1.0)
        return self.linear(x) * len(self.notes)


class DrawsFromGenerator(InPython):
    """Seeded, so that apply draws the first numbers of its generator at every call."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.notes = np.random.default_rng(0)

    def __call__(self, x):
        return self.linear(x) + self.notes.normal(size=4).astype(np.float32)


class StashesInRecord(CountsInRecord):
    """For a plot: no call reads it."""

    def __call__(self, x):
        self.notes.calls, self.notes.seen = self.notes.calls + 1, self.linear(x)
        return self.notes.seen


class FillsRecord(CountsInRecord):
    """A table that every call would make again."""

    def __call__(self, x):
        if self.notes.seen is None:
            self.notes.seen = np.cos(np.arange(4.0, dtype=np.float32))
        return self.linear(x) * self.notes.seen


class CountsForNobody(InPython):
    def __call__(self, x):
        self.calls += 1
        self.shape, self.last = x.shape, self.linear(x)
        return self.last


class FillsCache(InPython):
    """Makes a table at the first call, the same at any."""

    def __call__(self, x):
        if self.last is None:
            self.last = jnp.sin(jnp.arange(x.shape[-1], dtype=x.dtype))
        return self.linear(x + self.last)


class TransposesOnce(InPython):
    """Keeps what it makes of its weights."""

    def __call__(self, x):
        if self.last is None:
            self.last = self.linear.kernel[...].T
        return x @ self.last


W = np.asarray(np.random.default_rng(0).normal(size=(4, 8)), np.float32)


class ClassParam(nnx.Module):
    scale = nnx.Param(jnp.full((4,), 2.0))

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.linear(x) * type(self).scale[...]


class FileWeight(ClassParam):
    def __call__(self, x):
        return self.linear(x) @ W


class ListedWeights(ClassParam):
    weights = (2 * W, 3 * W.T)

    def __call__(self, x):
        for weight in self.weights:
            x = x @ weight
        return self.linear(x)


class OwnTables(nnx.Module):
    """Constants as people keep them: in the class, in the file, made in the call."""

    mask = np.tril(np.ones((4, 4), np.float32))
    cosines = np.cos(np.pi / 4 * (np.arange(4)[:, None] + 0.5) * np.arange(4)).astype(np.float32)
    positions = np.sin(np.arange(16)[:, None] / 100 ** (np.arange(4) / 4)).astype(np.float32)

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        window = np.hanning(x.shape[-1]).astype(np.float32)
        return self.linear(x @ self.mask @ self.cosines + self.positions[:2]) * window


class LoadsWeight(nnx.Module):
    """Starts from the numbers of the file, and holds them."""

    def __init__(self, *, rngs):
        self.w = nnx.Param(jnp.asarray(W))

    def __call__(self, x):
        return x @ self.w[...]


class KeepsKey(nnx.Module):
    """The same random features at every call, from a key that it keeps."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(16, 4, rngs=rngs)
        self.key = nnx.RngKey(rngs.features(), tag="features")

    def __call__(self, x):
        return self.linear(jnp.cos(x @ jax.random.normal(self.key[...], (x.shape[-1], 16))))


class SplitsKey(nnx.Module):
    """Another key at every call, split off one that it keeps."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.keys = nnx.List([nnx.RngKey(rngs.noise(), tag="noise")])

    def __call__(self, x):
        self.keys[0][...], key = jax.random.split(self.keys[0][...])
        return self.linear(x + jax.random.normal(key, x.shape))


class StepCount(nnx.RngCount):
    """A count of its own."""


class WarmsUpByCount(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.step = StepCount(jnp.zeros((), jnp.uint32), tag="step")

    def __call__(self, x):
        self.step[...] += 1
        return self.linear(x) * jnp.minimum(1.0, self.step[...] / 100)


class WarmsUpByStatistic(WarmsUpByCount):
    """As the check suggests."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.step = nnx.BatchStat(jnp.zeros((), jnp.uint32))


class DrawsOnce(nnx.Module):
    """As the check suggests."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(16, 4, rngs=rngs)
        self.drawn = nnx.BatchStat(jax.random.normal(rngs.features(), (4, 16)))

    def __call__(self, x):
        return self.linear(jnp.cos(x @ self.drawn[...]))


class HoldsStreams(nnx.Module):
    """Streams in every way that they are held."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.rngs, self.forked = rngs, rngs.fork()
        self.streams = nnx.List([rngs.noise])

    def __call__(self, x):
        x = self.dropout(x) + jax.random.normal(self.streams[0](), x.shape)
        return self.linear(x + jax.random.normal(self.forked.noise(), x.shape))


class KeepsConstantKey(nnx.Module):
    """A key that no seed changes: that of every apply is the native one."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.key = nnx.RngKey(jax.random.key(3), tag="constant")

    def __call__(self, x):
        return self.linear(x) + jax.random.normal(self.key[...], x.shape)


class CountsUnread(WarmsUpByCount):
    def __call__(self, x):
        self.step[...] += 1
        return self.linear(x)


class ReplacesCount(nnx.Module):
    """Puts an array in the place of a Variable."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.count = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x):
        self.count = self.count + 1
        return self.linear(x) / (1 + self.count)


class WritesCount(ReplacesCount):
    """As the check suggests."""

    def __call__(self, x):
        self.count[...] = self.count[...] + 1
        return self.linear(x) / (1 + self.count[...])


class ReplacesUnread(ReplacesCount):
    """Nothing of the call reads it, and a later one is to."""

    def __call__(self, x):
        self.count = self.count + x.shape[0]
        return self.linear(x)


class Holder:
    """A plain object."""

    def __init__(self, value):
        self.value = value


class HidesInObject(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.box = Holder(nnx.Param(jnp.ones(4)))

    def __call__(self, x):
        return self.linear(x) * self.box.value[...]


class HidesInFunction(nnx.Module):
    def __init__(self, *, rngs):
        gate, self.linear = nnx.Param(jnp.ones(4)), nnx.Linear(4, 4, rngs=rngs)
        self.act = lambda x: nnx.relu(x) * gate[...]

    def __call__(self, x):
        return self.act(self.linear(x))


class HidesModule(nnx.Module):
    """A layer that only a partial holds."""

    def __init__(self, *, rngs):
        inner, self.linear = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
        self.act = functools.partial(lambda layer, x: layer(x), inner)

    def __call__(self, x):
        return self.act(self.linear(x))


class HoldsWhatFunctionReads(nnx.Module):
    """The module itself has the Param that a function of it reads, and an object what is no Param."""

    def __init__(self, *, rngs):
        self.linear, self.gate = nnx.Linear(4, 4, rngs=rngs), nnx.Param(jnp.ones(4))
        self.act, self.box = (lambda x: nnx.relu(x) * self.gate[...]), Holder(3.0)
        self.made = functools.partial(nnx.Linear, 4, 4)

    def __call__(self, x):
        return self.act(self.linear(x)) * self.box.value


SMALL_HEAD = nnx.Linear(4, 4, rngs=nnx.Rngs(0))


class HeadOfTheFile(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return SMALL_HEAD(self.linear(x))


class SizesOfTheFile(HeadOfTheFile):
    """Asks a module of the file for its sizes alone."""

    def __call__(self, x):
        return self.linear(x) * SMALL_HEAD.out_features


class Exponential(nnx.BatchStat):
    """Holds a logarithm."""

    def get_value(self, **kwargs):
        return jnp.exp(super().get_value(**kwargs))


class Unchanged(nnx.BatchStat):
    """Gives what it holds."""

    def get_value(self, **kwargs):
        return super().get_value(**kwargs)


class ScalesByType(nnx.Module):
    kind: type = Exponential

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.scale = self.kind(jnp.zeros(()))

    def __call__(self, x):
        return self.linear(x) * self.scale.get_value()


class ScalesUnchanged(ScalesByType):
    kind = Unchanged


class ScalesInCall(ScalesByType):
    """As the check suggests."""

    kind = nnx.BatchStat

    def __call__(self, x):
        return self.linear(x) * jnp.exp(self.scale[...])
