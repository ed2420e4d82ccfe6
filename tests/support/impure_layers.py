"""Layers that are another in every process, trace or call, each beside a healthy one that looks like it."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import os
import random
import socket
import time
import zlib
from os import getpid

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

WIDTH = 4
MADE = itertools.count()
PARTS = frozenset({"query", "key", "value"})
TABLES = {}


class Plain(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.scale = self.drawn()

    def drawn(self):
        return 1.0

    def __call__(self, x):
        return self.linear(x) * self.scale


class UnseededTable(Plain):
    def drawn(self):
        return np.random.default_rng().normal(size=WIDTH).astype(np.float32)


class SeededTable(Plain):
    def drawn(self):
        return np.random.default_rng(0).normal(size=WIDTH).astype(np.float32)


class SeedsGlobally(Plain):
    def drawn(self):
        np.random.seed(0)
        return np.random.normal(size=WIDTH).astype(np.float32)


class HashedName(Plain):
    def drawn(self):
        return 1.0 + hash("encoder") % 1000


class HashedPair(Plain):
    def drawn(self):
        return 1.0 + hash(("block", 3)) % 1000


@dataclasses.dataclass(frozen=True)
class Setting:
    name: str | int
    note: str = dataclasses.field(default="", compare=False)


class HashedSetting(Plain):
    def drawn(self):
        return 1.0 + hash(Setting("wide")) % 1000


class HashedClass(Plain):
    """By its address."""

    def drawn(self):
        return 1.0 + hash(type(self)) % 1000


class HashedMember(Plain):
    def drawn(self):
        return 1.0 + hash(Size.WIDE) % 1000


class Size(enum.Enum):
    WIDE = 2


class HashedNumberSetting(Plain):
    """A dataclass that compares a number alone is hashed alike everywhere."""

    def drawn(self):
        return 1.0 + hash(Setting(3)) % 1000


class OfProcess(Plain):
    def drawn(self):
        return 1.0 + os.getpid() % 1000


class OfImportedProcess(Plain):
    """By a name that is bound at import."""

    def drawn(self):
        return 1.0 + getpid() % 1000


class KeyedByProcess(Plain):
    """The process id is a key there, and no number."""

    def drawn(self):
        return {getpid(): 1.0}[getpid()]


class OfMachine(Plain):
    def drawn(self):
        return 1.0 + len(socket.gethostname())


class HashedNumbers(Plain):
    def drawn(self):
        return 1.0 + hash((1, 2, 3)) % 1000


class HashedForCache(Plain):
    """A hash that is a key, and no number."""

    def drawn(self):
        return {hash("scale"): 1.0, os.getpid(): 2.0}[hash("scale")]


class Digested(Plain):
    def drawn(self):
        return 1.0 + zlib.crc32(b"encoder") % 1000


class Clock(Plain):
    def drawn(self):
        return 1.0 + time.time_ns() % 1000003


class Timed(Plain):
    """Reads the clock and uses nothing of it."""

    def drawn(self):
        self.made_at = time.time()
        return 1.0


class SystemBytes(Plain):
    def drawn(self):
        return int.from_bytes(os.urandom(4), "little") / 2**32


class Numbered(Plain):
    def drawn(self):
        return 1.0 + next(MADE)


class NumberedInName(Plain):
    """Counts its instances, for a name that no number depends on."""

    def drawn(self):
        self.label = f"layer_{next(MADE)}"
        return 1.0


class Coin(Plain):
    def __call__(self, x):
        return self.linear(x) if random.random() < 0.5 else x


class NumpyParam(nnx.Module):
    def __init__(self, *, rngs):
        self.w = nnx.Param(jnp.asarray(np.random.normal(size=(WIDTH, WIDTH)), jnp.float32))

    def __call__(self, x):
        return x @ self.w[...]


class Remembered(Plain):
    """Keeps its table between instances."""

    def drawn(self):
        return TABLES.setdefault(WIDTH, np.arange(WIDTH, dtype=np.float32))


class Called(Plain):
    """Adds what a function of the host gives."""

    @staticmethod
    def given(x):
        return np.sin(x)

    def __call__(self, x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return self.linear(x) + jax.pure_callback(self.given, shape, jax.lax.stop_gradient(x))


class CalledNoise(Called):
    @staticmethod
    def given(x):
        return np.random.normal(size=x.shape).astype(x.dtype)


class Printed(Plain):
    def __call__(self, x):
        jax.debug.callback(lambda y: None, x)
        return self.linear(x)


class FromSet(nnx.Module):
    """Makes its layers in the order of a set of names."""

    def __init__(self, *, rngs):
        for name in {"query", "key", "value"}:
            setattr(self, name, nnx.Linear(WIDTH, WIDTH, rngs=rngs))

    def __call__(self, x):
        return self.query(x) + self.key(x) + self.value(x)


class FromKnownSet(FromSet):
    def __init__(self, *, rngs):
        self.layers = nnx.Dict({name: nnx.Linear(WIDTH, WIDTH, rngs=rngs) for name in PARTS})

    def __call__(self, x):
        return sum(layer(x) for layer in self.layers.values())


class InSet(FromSet):
    """Runs its layers in the order of a set."""

    def __init__(self, *, rngs):
        self.names = list(set("ab"))
        self.a, self.b = nnx.Linear(WIDTH, WIDTH, rngs=rngs), nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        return x


class Sorted(FromSet):
    def __init__(self, *, rngs):
        for name in sorted({"query", "key", "value"}):
            setattr(self, name, nnx.Linear(WIDTH, WIDTH, rngs=rngs))


class Tested(FromSet):
    """Tests names against a set, and loops over it only to refuse."""

    def __init__(self, *, rngs):
        for name in {"query", "key"}:
            if not name.islower():
                raise ValueError(name)
        if any(len(name) > 9 for name in PARTS):
            raise ValueError("too long")
        for name in ("query", "key", "value"):
            if name in PARTS:
                setattr(self, name, nnx.Linear(WIDTH, WIDTH, rngs=rngs))


WANTED = {"query": 1, "key": 2, "value": 3, "none": 4}


def each_once(names):
    return list(set(names))


def parts_of(rows):
    return {row.lower() for row in rows}


def text_of(names):
    """Nothing that a number comes from."""
    return ", ".join(sorted(set(names)))


class FromHelper(FromSet):
    """A function of the same file puts the names in the order of a set."""

    def __init__(self, *, rngs):
        for name in each_once(["query", "key", "value", "key"]):
            setattr(self, name, nnx.Linear(WIDTH, WIDTH, rngs=rngs))


class FromGivenSet(FromKnownSet):
    """A function of the same file gives a set."""

    def __init__(self, *, rngs):
        self.layers = nnx.Dict({name: nnx.Linear(WIDTH, WIDTH, rngs=rngs) for name in parts_of(PARTS)})


class FromViews(FromSet):
    """What two dicts have in common is a set."""

    def __init__(self, *, rngs):
        for name in WANTED.keys() & {"query": 0, "key": 0, "value": 0}.keys():
            setattr(self, name, nnx.Linear(WIDTH, WIDTH, rngs=rngs))


class FromUnion(FromSet):
    def __init__(self, *, rngs):
        for name in {"query"}.union(PARTS):
            setattr(self, name, nnx.Linear(WIDTH, WIDTH, rngs=rngs))


class OfFunctions(Plain):
    """Functions in a set are ordered by where they are in memory."""

    acts = frozenset({nnx.relu, nnx.tanh, nnx.gelu})

    def __call__(self, x):
        x = self.linear(x)
        for act in self.acts:
            x = act(x)
        return x


class OfNumbers(Plain):
    """Numbers and pairs of numbers are hashed alike everywhere."""

    shifts = frozenset({(0, 1), (1, 0), (2, 2)})

    def __call__(self, x):
        x = self.linear(x)
        for first, second in self.shifts:
            x = x * (first + 1) + second
        return x


class OrderedByHelper(FromSet):
    def __init__(self, *, rngs):
        self.text = text_of(PARTS)
        for name in sorted(parts_of(PARTS)):
            setattr(self, name, nnx.Linear(WIDTH, WIDTH, rngs=rngs))


class NamedInError(Plain):
    """Loops over a set for the words of an error."""

    def __init__(self, *, kind="query", rngs):
        super().__init__(rngs=rngs)
        if kind not in PARTS:
            raise ValueError(f"one of {', '.join(name for name in PARTS)}")


class NumbersInSet(FromSet):
    """Integers are their own hash: the order is the same everywhere."""

    def __init__(self, *, rngs):
        self.layers = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in {1, 2, 3}])

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class HourOfClock(Plain):
    """One number for an hour: two traces in a row have it alike."""

    def drawn(self):
        return 1.0 + time.time() // 3600 % 1000


class DayInText(Plain):
    def drawn(self):
        return 1.0 + int(time.strftime("%j"))


class TakesTurns(Plain):
    """The same equations each time, and in turn another one of their values comes out."""

    def __call__(self, x):
        return [self.linear(x), self.linear(x) * 2.0][next(MADE) % 2]


class SwapsTables(Plain):
    """The same equations on another constant."""

    def drawn(self):
        return np.arange(WIDTH, dtype=np.float32) + next(MADE) % 2


class CountedAside(Plain):
    """Counts its calls globally, and uses nothing of it."""

    def __call__(self, x):
        next(MADE)
        return super().__call__(x)


class CountedInItsClass(Plain):
    """Counts its calls in its class, and uses nothing of it."""

    num_calls = 0

    def __call__(self, x):
        type(self).num_calls += 1
        return super().__call__(x)


class ClockOfText(Plain):
    """Says a moment that is given, as a clock would say one."""

    def drawn(self):
        return 1.0 + int(time.strftime("%j", time.gmtime(0)))


class SetsPrecision(Plain):
    def drawn(self):
        jax.config.update("jax_default_matmul_precision", "float32")
        return 1.0


class SetsX64AtCall(Plain):
    def __call__(self, x):
        jax.config.update("jax_enable_x64", True)
        return super().__call__(x)


class PreciseInside(Plain):
    def __call__(self, x):
        with jax.default_matmul_precision("highest"):
            return super().__call__(x)


class SetsBack(Plain):
    def __call__(self, x):
        before = jax.config.jax_default_matmul_precision
        jax.config.update("jax_default_matmul_precision", "highest")
        y = super().__call__(x)
        jax.config.update("jax_default_matmul_precision", before)
        return y


class OfHost(Plain):
    def drawn(self):
        return 1.0 + jax.process_index()


class SaidByFirstHost(Plain):
    def drawn(self):
        return 1.0 if jax.process_index() == 0 else float("1.0")


class SetsFlax(Plain):
    def drawn(self):
        flax.config.update("flax_always_shard_variable", False)
        return 1.0


class SetsBoth(Plain):
    def drawn(self):
        jax.jit(lambda: jax.config.update("jax_numpy_dtype_promotion", "strict"))()
        flax.config.update("flax_always_shard_variable", False)
        return 1.0


class OfPairOfHosts(Plain):
    def drawn(self):
        return 1.0 + jax.process_index() // 2


class NamesItsHost(Plain):
    def drawn(self):
        names = [f"host {index}" for index in range(jax.process_count())]
        return 1.0 if names[jax.process_index()] else 2.0
