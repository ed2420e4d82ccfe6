"""Planted faults, and healthy layers and hosts that look like them: what each check is measured by.

`CASES` has what is planted, the shape of x, further overrides, and what `bridge-runner check` must say: any of `words`
for a fault; nothing for a healthy one (`words` is None). `tests/benchmarks/faults.py` makes docs/reference/faults.md of
it.
"""

import functools
import itertools
import random
import time
import zlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx


@dataclass(frozen=True)
class Case:
    """A layer or a host, and what is to be said of it."""

    name: str
    planted: str
    shape: tuple[int, ...]
    words: tuple[str, ...] | None
    extra: tuple[str, ...]

    @property
    def typed(self) -> list[str]:
        """What is typed after `bridge-runner check`."""
        shape = f"input_shape=[{','.join(map(str, self.shape))}]"
        if any(word.startswith("host.target") for word in self.extra):
            return [shape, *self.extra]
        return ["layer=custom", f"layer.target=planted_faults.{self.name}", shape, *self.extra]


CASES: dict[str, Case] = {}


def fault(planted, words, shape=(4, 8), extra=()):
    """Registers a faulty layer or host; `words`: any of these is said."""

    def put(target):
        CASES[target.__name__] = Case(target.__name__, planted, tuple(shape), tuple(words), tuple(extra))
        return target

    return put


def healthy(planted, shape=(4, 8), extra=()):
    """Registers a healthy layer or host."""

    def put(target):
        CASES[target.__name__] = Case(target.__name__, planted, tuple(shape), None, tuple(extra))
        return target

    return put


def host(name):
    return ("layer=linear", "features=8", f"host.target=planted_faults.{name}")


SEED = ("seed",)
DRIFT = ("same input", "differ", "determin", "repeat")

# ---- deaf to the seed ----


@fault("deaf: own seed argument, no rngs", SEED)
class OwnSeed(nnx.Module):
    def __init__(self, width: int = 8, seed: int = 42):
        self.lin = nnx.Linear(width, width, rngs=nnx.Rngs(seed))

    def __call__(self, x):
        return self.lin(x)


@fault("deaf: numpy generator with a fixed seed fills the Param", SEED)
class NumpySeeded(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(jnp.asarray(np.random.default_rng(0).normal(size=(width, width)), jnp.float32))

    def __call__(self, x):
        return x @ self.w[...]


@fault("deaf in part: one kernel of two has a fixed key", SEED)
class PartDeaf(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.a = nnx.Linear(width, width, rngs=rngs)
        self.b = nnx.Param(nnx.initializers.lecun_normal()(jax.random.key(7), (width, width)))

    def __call__(self, x):
        return self.a(x) @ self.b[...]


@healthy("constant init is no deafness")
class ConstantInit(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(jnp.eye(width))

    def __call__(self, x):
        return x @ self.w[...]


@healthy("fixed random features in a Variable, weights from the seed")
class RandomFeatures(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.proj = nnx.Variable(jax.random.normal(rngs.params(), (width, 16)))
        self.out = nnx.Linear(16, width, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.cos(x @ self.proj[...]))


@healthy("own seed only as a fallback")
class SeedFallback(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs | None = None):
        rngs = rngs if rngs is not None else nnx.Rngs(0)
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.lin(x)


@fault("numpy generator with a fixed seed fills a bfloat16 Param", SEED)
class NumpyBrain(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(jnp.asarray(np.random.RandomState(0).randn(width, 64), jnp.bfloat16))

    def __call__(self, x):
        return x @ self.w[...].astype(x.dtype)


@fault("numpy generator with a fixed seed fills five numbers", SEED)
class NumpyFive(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, 5, rngs=rngs)
        self.gain = nnx.Param(jnp.asarray(np.random.RandomState(0).randn(5), jnp.float32))

    def __call__(self, x):
        return self.lin(x) * self.gain[...]


@healthy("a matrix written in the code that is learnt on")
class Written(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, 3, rngs=rngs)
        yuv = [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
        self.colours = nnx.Param(jnp.asarray(yuv))

    def __call__(self, x):
        return self.lin(x) @ self.colours[...]


# ---- other sources than rngs ----


@fault("the hash of a name is folded into the key", ("every process",))
class HashedName(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        key = jax.random.fold_in(rngs.params(), hash("encoder") % 2**31)
        self.w = nnx.Param(jax.random.normal(key, (width, width)))

    def __call__(self, x):
        return x @ self.w[...]


@healthy("a checksum of a name is folded into the key")
class ChecksumName(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        key = jax.random.fold_in(rngs.params(), zlib.crc32(b"encoder") % 2**31)
        self.w = nnx.Param(jax.random.normal(key, (width, width)))

    def __call__(self, x):
        return x @ self.w[...]


@fault("numpy random in the constructor fills a Param", DRIFT)
class NumpyInit(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(jnp.asarray(np.random.normal(size=(width, width)), jnp.float32))

    def __call__(self, x):
        return x @ self.w[...]


@fault("numpy random in the call", DRIFT)
class NumpyCall(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.lin(x) + np.random.normal(size=x.shape).astype(np.float32)


@fault("python random chooses a branch at trace time", DRIFT)
class StochasticDepth(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(3)])

    def __call__(self, x):
        for layer in self.layers:
            if random.random() < 0.5:
                x = x + layer(x)
        return x


@fault("time in the constructor", DRIFT)
class TimeScale(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)
        self.scale = 1.0 + (time.time() % 1.0)

    def __call__(self, x):
        return self.lin(x) * self.scale


COUNTER = itertools.count()


@fault("a global counter numbers the layers and scales them", DRIFT)
class CountedDepth(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.depth = next(COUNTER)
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.lin(x) / (1.0 + self.depth)


@fault("a callback draws at every call", ("differ", "repeat", "same call"))
class CallbackNoise(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        noise = jax.pure_callback(
            lambda s: np.random.normal(size=s.shape).astype(np.float32),
            jax.ShapeDtypeStruct(x.shape, jnp.float32),
            x,
            vmap_method="sequential",
        )
        return self.lin(x) + noise


@healthy("a callback that is a pure function")
class PureCallback(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        y = jax.lax.stop_gradient(x)
        bias = jax.pure_callback(
            lambda s: np.sin(s), jax.ShapeDtypeStruct(x.shape, x.dtype), y, vmap_method="sequential"
        )
        return self.lin(x) + bias


# ---- shared things ----


@fault("a Param as a class attribute is in no tree", ("class", "Param", "variables", "trained"))
class ClassParam(nnx.Module):
    scale = nnx.Param(jnp.full((8,), 2.0))

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.lin(x) * type(self).scale[...]


def hidden_sizes(sizes=[16, 8]):  # noqa: B006
    return sizes


@fault("the constructor eats its mutable default", ("differ", "misshapen", "shape", "fails", "raises", "empty"))
class EatsDefault(nnx.Module):
    def __init__(self, width: int = 8, sizes: list = [8] * 6, *, rngs: nnx.Rngs):
        sizes.pop()
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in sizes])

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


TABLE = {}


@fault("a cache of arrays across instances leaks tracers", ("tracer", "Tracer", "leak", "fails", "raises"))
class CachedTable(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        if width not in TABLE:
            TABLE[width] = jnp.sin(jnp.arange(width, dtype=jnp.float32)) + jax.random.normal(rngs.params(), (width,))
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.lin(x + TABLE[x.shape[-1]])


@functools.lru_cache
def angles(width):
    return np.arange(width, dtype=np.float32)


@healthy("a cache of numpy arrays across instances")
class CachedNumpy(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.lin(x + angles(x.shape[-1]))


# ---- state ----


@fault(
    "state in a Python attribute: apply builds it again and forgets it",
    ("mutable", "state", "attribute", "Variable", "lost"),
)
class PythonState(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return self.lin(x) * min(1.0, self.calls / 10)


@fault("an update has another shape than init's variable", ("shape", "batch", "mutable"))
class WrongAxisStats(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.mean = nnx.BatchStat(jnp.zeros((width,)))
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        self.mean.set_value(x.mean(-1))
        return self.lin(x - x.mean(-1, keepdims=True))


@fault("an update has another dtype than init's variable", ("dtype", "int32", "float32", "mutable"))
class DtypeDrift(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.step = nnx.BatchStat(jnp.zeros((), jnp.int32))
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        self.step.set_value(self.step.get_value() + 0.5)
        return self.lin(x)


@healthy("moving mean in a BatchStat")
class MovingMean(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.mean = nnx.BatchStat(jnp.zeros((width,)))
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        self.mean.set_value(0.9 * self.mean.get_value() + 0.1 * x.mean(0))
        return self.lin(x - self.mean.get_value())


@fault("a Param made lazily in the call", ("call", "constructor", "init"))
class LazyParam(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.width, self.rngs = width, rngs

    def __call__(self, x):
        if not hasattr(self, "w"):
            self.w = nnx.Param(jax.random.normal(self.rngs.params(), (x.shape[-1], self.width)))
        return x @ self.w[...]


@fault("the call changes a Param in place", ("params", "mutable", "changes"))
class NormalisesParam(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (width, width)))

    def __call__(self, x):
        self.w.set_value(self.w.get_value() / jnp.linalg.norm(self.w.get_value(), axis=0, keepdims=True))
        return x @ self.w[...]


@healthy("normalised at use, Param untouched")
class NormalisedUse(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (width, width)))

    def __call__(self, x):
        w = self.w[...]
        return x @ (w / jnp.linalg.norm(w, axis=0, keepdims=True))


@dataclass
class Notes:
    """A record of the layer's own."""

    steps: int = 0


@fault("state in a record of the layer's own", ("mutable", "state", "attribute", "Variable", "lost"))
class RecordState(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin, self.notes = nnx.Linear(width, width, rngs=rngs), Notes()

    def __call__(self, x):
        self.notes.steps += 1
        return self.lin(x) * min(1.0, self.notes.steps / 10)


@healthy("a record of the layer's own that nothing reads")
class RecordNotes(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin, self.notes = nnx.Linear(width, width, rngs=rngs), Notes()

    def __call__(self, x):
        self.notes.steps += 1
        return self.lin(x)


# ---- draws ----


@fault("a key kept in a Variable, drawn from at every call", ("same at every call",))
class KeptKey(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Variable(jax.random.key_data(rngs.params()))

    def __call__(self, x):
        key = jax.random.wrap_key_data(self.key[...])
        return self.lin(x) * jax.random.bernoulli(key, 0.5, x.shape)


@fault("one key for two masks", ("one key", "equal", "same"))
class OneKeyTwice(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x):
        key = self.rngs.dropout()
        x = x * jax.random.bernoulli(key, 0.5, x.shape)
        y = self.lin(x)
        return y * jax.random.bernoulli(key, 0.5, y.shape)


@healthy("a key each by split")
class KeyEach(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x):
        a, b = jax.random.split(self.rngs.dropout())
        x = x * jax.random.bernoulli(a, 0.5, x.shape)
        y = self.lin(x)
        return y * jax.random.bernoulli(b, 0.5, y.shape)


@fault("noise from the stream params in the call", ("params", "key 0", "not given"))
class NoiseFromParams(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x):
        return self.lin(x) + 0.1 * jax.random.normal(self.rngs.params(), x.shape)


@fault("dropout with rngs of its own", ("key of its own", "same at every call"))
class DropoutOwnRngs(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.drop(self.lin(x))


@healthy("rngs forked in the constructor, one for each of two blocks")
class Forked(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.a = nnx.Dropout(0.2, rngs=rngs.fork())
        self.b = nnx.Dropout(0.2, rngs=rngs)
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.b(self.lin(self.a(x)))


# ---- training ----


@fault("rounded weights have no gradient", ("train", "gradient"))
class Rounded(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (width, width)))
        self.b = nnx.Param(jnp.zeros((width,)))

    def __call__(self, x):
        return x @ jnp.round(self.w[...] * 8) / 8 + self.b[...]


@healthy("rounded weights, straight through")
class StraightThrough(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (width, width)))

    def __call__(self, x):
        w = self.w[...]
        return x @ (w + jax.lax.stop_gradient(jnp.round(w * 8) / 8 - w))


@fault("a Param of integers: jax.grad refuses it", ("int", "train", "grad"))
class IntParam(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.order = nnx.Param(jax.random.permutation(rngs.params(), width))
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.lin(x[..., self.order[...]])


@healthy("integers in a plain Variable")
class IntVariable(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.order = nnx.Variable(jax.random.permutation(rngs.params(), width))
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.lin(x[..., self.order[...]])


@fault("complex weights behind stop_gradient", ("train", "gradient"))
class DeadComplex(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (5, width, width), jnp.complex64))
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        f = jnp.fft.rfft(x, axis=-1)
        return self.lin(x) + jnp.fft.irfft(f * jax.lax.stop_gradient(self.w[...])[:, 0, 0], n=x.shape[-1], axis=-1)


@healthy("complex weights, an FNO layer")
class Spectral(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (5,), jnp.complex64))
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.lin(x) + jnp.fft.irfft(jnp.fft.rfft(x, axis=-1) * self.w[...], n=x.shape[-1], axis=-1)


@healthy("LoRA that is a Param")
class LoraAsParam(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lora = nnx.LoRA(
            width, 2, width, base_module=nnx.Linear(width, width, rngs=rngs), lora_param_type=nnx.Param, rngs=rngs
        )

    def __call__(self, x):
        return self.lora(x)


# ---- seeds that fail ----


@fault("inf at some seeds", ("NaN", "finite"), extra=("seed=5",))
class InfAtSomeSeeds(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (width, width)))
        self.temperature = nnx.Param(jax.random.randint(rngs.params(), (width,), 0, 4).astype(jnp.float32))

    def __call__(self, x):
        return x @ self.w[...] / self.temperature[...]


# ---- hosts ----


@fault(
    "the host calls the layer only after init", ("missing", "complete", "init", "leaves out"), extra=host("SkipsAtInit")
)
class SkipsAtInit(nn.Module):
    layer: object = None

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        return x if self.is_initializing() else self.layer()(x)


@fault(
    "nn.scan over layers with split_rngs False: all layers start equal",
    ("same", "split_rngs", "equal"),
    extra=host("ScanOneKey"),
)
class ScanOneKey(nn.Module):
    layer: object = None

    @nn.compact
    def __call__(self, x):
        class Body(nn.Module):
            make: object

            @nn.compact
            def __call__(self, x, _):
                return self.make()(x), None

        return nn.scan(Body, variable_axes={"params": 0}, split_rngs={"params": False}, length=3)(self.layer)(x, None)[
            0
        ]


@healthy("nn.scan over layers as it should be", extra=host("ScanRight"))
class ScanRight(nn.Module):
    layer: object = None

    @nn.compact
    def __call__(self, x):
        class Body(nn.Module):
            make: object

            @nn.compact
            def __call__(self, x, _):
                return self.make()(x), None

        return nn.scan(Body, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)(self.layer)(x, None)[0]


@fault("the host stops the gradient behind the layer", ("train", "gradient"), extra=host("Frozen"))
class Frozen(nn.Module):
    layer: object = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(jax.lax.stop_gradient(self.layer()(x)))


@healthy("a host with setup", extra=host("Setup"))
class Setup(nn.Module):
    layer: object = None

    def setup(self):
        self.first = nn.Dense(8)
        self.inner = self.layer()

    def __call__(self, x):
        return self.inner(nn.relu(self.first(x)))


@fault("a siamese host: one layer called on two inputs", ("twice", "called 2 times", "init"), extra=host("Siamese"))
class Siamese(nn.Module):
    layer: object = None

    @nn.compact
    def __call__(self, x):
        inner = self.layer()
        return inner(x) - inner(jnp.flip(x, 0))


@healthy("a host with nn.Dropout around the layer", extra=host("Dropping"))
class Dropping(nn.Module):
    layer: object = None

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(self.layer()(x))


@healthy("MLP in nnx.List, as flax's docs write it")
class ListMLP(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(3)])

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return x


@healthy("nnx.Sequential")
class Seq(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.net = nnx.Sequential(nnx.Linear(width, 16, rngs=rngs), nnx.gelu, nnx.Linear(16, width, rngs=rngs))

    def __call__(self, x):
        return self.net(x)


@healthy("nnx.Dict of heads")
class Heads(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.heads = nnx.Dict(a=nnx.Linear(width, 2, rngs=rngs), b=nnx.Linear(width, 3, rngs=rngs))

    def __call__(self, x):
        return {k: self.heads[k](x) for k in ("a", "b")}


@healthy("CNN block", (2, 8, 8, 3))
class ConvBlock(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.conv, self.norm = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)

    def __call__(self, x):
        return nnx.avg_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))


@healthy(
    "pre-norm transformer block with dropout and a mode argument", (2, 4, 16), ("+layer.call.deterministic=false",)
)
class Block(nnx.Module):
    def __init__(self, width: int = 16, *, rngs: nnx.Rngs):
        self.n1, self.n2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 32, rngs=rngs), nnx.Linear(32, width, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x, deterministic: bool = True):
        x = x + self.attn(self.n1(x))
        return x + self.drop(self.down(nnx.gelu(self.up(self.n2(x)))), deterministic=deterministic)


@healthy("decoder with its cache made in the constructor", (2, 1, 16))
class Decoder(nnx.Module):
    def __init__(self, width: int = 16, *, rngs: nnx.Rngs):
        self.attn = nnx.MultiHeadAttention(2, width, decode=True, rngs=rngs)
        self.attn.init_cache((2, 8, width))

    def __call__(self, x):
        return self.attn(x)


@healthy("rotary attention with its table in a Variable", (2, 4, 16))
class Rotary(nnx.Module):
    def __init__(self, width: int = 16, *, rngs: nnx.Rngs):
        self.qkv = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.freqs = nnx.Variable(1.0 / 10000 ** (jnp.arange(0, width, 2) / width))

    def __call__(self, x):
        q, k, v = jnp.split(self.qkv(x), 3, -1)
        angle = jnp.arange(x.shape[1])[:, None] * self.freqs[...]

        def turn(t):
            a, b = jnp.split(t, 2, -1)
            return jnp.concatenate(
                [a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)], -1
            )

        return nnx.softmax(turn(q) @ turn(k).mT) @ v


@healthy("rotary attention with its table in a numpy constant of the class", (2, 4, 16))
class RotaryConst(nnx.Module):
    def __init__(self, width: int = 16, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)
        self.width = width

    def __call__(self, x):
        table = np.sin(np.arange(x.shape[1])[:, None] / 10000 ** (np.arange(self.width) / self.width)).astype(
            np.float32
        )
        return self.lin(x) + table


@healthy("GRU over time", (2, 5, 8))
class Recurrent(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(width, width, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.rnn(x)


@healthy("jitted and rematerialised inside")
class Inner(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.a, self.b = nnx.Linear(width, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        y = nnx.jit(lambda m, x: m(x))(self.a, x)
        return nnx.remat(lambda m, x: nnx.relu(m(x)))(self.b, y)


@healthy("EMA codebook in a Variable type of its own, updated in the call")
class Codebook(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.codes = nnx.BatchStat(jax.random.normal(rngs.params(), (4, width)))

    def __call__(self, x):
        codes = self.codes.get_value()
        best = jnp.argmin(((x[:, None] - codes) ** 2).sum(-1), -1)
        hot = jax.nn.one_hot(best, 4)
        self.codes.set_value(0.99 * codes + 0.01 * (hot.T @ x) / jnp.maximum(hot.sum(0), 1)[:, None])
        return x + jax.lax.stop_gradient(codes[best] - x)


@healthy("positional table of learnt vectors, by slice", (2, 4, 8))
class Positions(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.table = nnx.Param(0.02 * jax.random.normal(rngs.params(), (16, width)))

    def __call__(self, x):
        return x + self.table[...][: x.shape[1]]


@healthy("mixture of experts with a sown balance loss", (2, 4, 8))
class MoE(nnx.Module):
    def __init__(self, width: int = 8, experts: int = 4, *, rngs: nnx.Rngs):
        self.router = nnx.Linear(width, experts, use_bias=False, rngs=rngs)
        self.up = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (experts, width, 16)))
        self.down = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (experts, 16, width)))

    def __call__(self, x):
        p = nnx.softmax(self.router(x))
        return jnp.einsum(
            "bte,bteo->bto",
            p,
            jnp.einsum("bteh,eho->bteo", nnx.relu(jnp.einsum("bti,eih->bteh", x, self.up[...])), self.down[...]),
        )


@healthy("spectral normalised linear")
class Spectral2(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.sn = nnx.SpectralNorm(nnx.Linear(width, width, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.sn(x, update_stats=True)


@healthy("weight-normalised linear")
class WeightNormed(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.wn = nnx.WeightNorm(nnx.Linear(width, width, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.wn(x)


@healthy("LoRA that flax makes, adapters alone to be trained", extra=("train.collections=[LoRAParam]",))
class LoraOnly(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lora = nnx.LoRALinear(width, width, lora_rank=2, rngs=rngs)

    def __call__(self, x):
        return self.lora(x)


@healthy("learnt scalar temperature, 0-d Param")
class Temperature(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.log_t = nnx.Param(jnp.zeros(()))

    def __call__(self, x):
        return nnx.softmax(x * jnp.exp(self.log_t[...]))


@healthy("no variables at all")
class Pool(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        pass

    def __call__(self, x):
        return x.mean(0, keepdims=True)


@healthy("image to vector, no batch axis", (8, 8, 3))
class NoBatch(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.out = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, x):
        return self.out(self.conv(x).mean((0, 1)))


@healthy("vector quantity of a single sample", (8,))
class Single(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.lin(x) / jnp.linalg.norm(x)


@healthy("nn.vmap ensemble with split rngs", extra=host("Ensemble"))
class Ensemble(nn.Module):
    layer: object = None

    @nn.compact
    def __call__(self, x):
        class Body(nn.Module):
            make: object

            @nn.compact
            def __call__(self, x):
                return self.make()(x)

        return nn.vmap(Body, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=3)(
            self.layer
        )(x).mean(0)


@healthy("BatchNorm and dropout of Linen beside the layer", extra=host("Mixed"))
class Mixed(nn.Module):
    layer: object = None

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False)(nn.Dense(8)(x))
        return nn.Dropout(0.1, deterministic=False)(self.layer()(x))


@healthy("weight sharing in a host by a second method call of one Linen module", extra=host("Tied"))
class Tied(nn.Module):
    layer: object = None

    def setup(self):
        self.embed = nn.Dense(8)
        self.inner = self.layer()

    def __call__(self, x):
        return self.embed(self.inner(self.embed(x)))


@healthy("residual stack: the layer once, Linen around", extra=host("Residual"))
class Residual(nn.Module):
    layer: object = None

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = x + nn.Dense(8)(nn.LayerNorm()(x))
        return x + self.layer()(x)
