"""Layers that are deaf to the seed, stacks that start equal, and healthy layers that look like them."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

KEY = jax.random.key(3)
WEIGHT = np.random.default_rng(5).normal(size=(8, 8)).astype(np.float32)
WRITTEN = np.asarray([[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]], np.float32)
LECUN = nnx.initializers.lecun_normal()


class Product(nnx.Module):
    """x @ w, with `w` as a subclass makes it."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.w = nnx.Param(self.make(width, rngs))

    def make(self, width, rngs):
        return LECUN(rngs.params(), (width, width))

    def __call__(self, x):
        return x @ self.w[...]


class OwnSeed(nnx.Module):
    def __init__(self, width: int = 8, seed: int = 42):
        self.linear = nnx.Linear(width, width, rngs=nnx.Rngs(seed))

    def __call__(self, x):
        return self.linear(x)


class ReplacedRngs(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        rngs = nnx.Rngs(params=0)
        self.linear = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.linear(x)


def ignored_rngs(*, rngs):
    return nnx.Linear(8, 8, rngs=nnx.Rngs(1))


class SeededNumpy(Product):
    def make(self, width, rngs):
        return jnp.asarray(np.random.default_rng(0).normal(size=(width, width)), jnp.float32)


class SeededBias(Product):
    def make(self, width, rngs):
        self.b = nnx.Param(jnp.asarray(np.random.RandomState(1).uniform(-1, 1, width), jnp.float32))
        return super().make(width, rngs)


class SeededBrain(Product):
    """A weight in bfloat16, which has few different numbers."""

    def make(self, width, rngs):
        return jnp.asarray(np.random.default_rng(0).normal(size=(width, 64)), jnp.bfloat16)


class SeededShort(SeededBias):
    """Five numbers: too few to be told from a list."""

    def make(self, width, rngs):
        self.b = nnx.Param(jnp.asarray(np.random.RandomState(1).uniform(-1, 1, (5, 1)), jnp.float32))
        return Product.make(self, width, rngs)


class SeededSigns(Product):
    def make(self, width, rngs):
        return jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (width, width)), jnp.float32)


class SeededSparse(Product):
    def make(self, width, rngs):
        generator = np.random.default_rng(0)
        return jnp.asarray(
            generator.normal(size=(width, width)) * (generator.random((width, width)) < 0.2), jnp.float32
        )


class SeededOrder(Product):
    """A seeded order of the inputs, which is no leaf, with a table that is none of it."""

    def make(self, width, rngs):
        self.order = tuple(map(int, np.random.default_rng(0).permutation(width)))
        self.table = nnx.Param(jnp.asarray(WRITTEN))
        return Product.make(self, width, rngs)


class SeededRandom(Product):
    def make(self, width, rngs):
        draw = random.Random(0).gauss
        return jnp.asarray([[draw(0, 1) for _ in range(width)] for _ in range(width)], jnp.float32)


class ClosedKey(Product):
    def make(self, width, rngs):
        return LECUN(jax.random.fold_in(KEY, width), (width, width))


class ClosedArray(Product):
    def make(self, width, rngs):
        return jnp.asarray(WEIGHT) * 0.1


class ClassArray(Product):
    KERNEL = np.random.RandomState(4).normal(size=(8, 8)).astype(np.float32)

    def make(self, width, rngs):
        return jnp.asarray(self.KERNEL)


class DefaultArray(Product):
    def make(self, width, rngs, kernel=np.random.default_rng(6).normal(size=(8, 8))):  # noqa: B008
        return jnp.asarray(kernel, jnp.float32)


@functools.lru_cache
def cached(width):
    """Drawn at the first call in a process only."""
    return np.random.default_rng(7).normal(size=(width, width)).astype(np.float32)


class CachedArray(Product):
    def make(self, width, rngs):
        return jnp.asarray(cached(width))


class SeededBits(SeededBias):
    """Five numbers of a generator that is made of its parts."""

    def make(self, width, rngs):
        generator = np.random.Generator(np.random.PCG64([1, 2]))
        self.b = nnx.Param(jnp.asarray(generator.uniform(-1, 1, (5, 1)), jnp.float32))
        return Product.make(self, width, rngs)


class Chirp(Product):
    """A tone that rises, beside a live kernel."""

    def make(self, width, rngs):
        time = np.linspace(0, 1, 64)
        self.tone = nnx.Param(jnp.asarray(np.cos(2 * np.pi * (3 * time + 40 * time**2)), jnp.float32))
        return super().make(width, rngs)


class Scattered(Chirp):
    """Points of low discrepancy."""

    def make(self, width, rngs):
        steps = np.asarray([0.618033988749895, 0.7548776662466927, 0.5698402909980532])
        self.points = nnx.Param(jnp.asarray(np.arange(32)[:, None] * steps % 1, jnp.float32))
        return Product.make(self, width, rngs)


class ScatteredBeside(Scattered):
    """The same beside a draw that it does not come from."""

    def make(self, width, rngs):
        self.order = tuple(map(int, np.random.default_rng(0).permutation(width)))
        return super().make(width, rngs)


class ScatteredBuffer(Product):
    def make(self, width, rngs):
        self.points = nnx.Variable(jnp.asarray(np.arange(64)[:, None] * np.asarray([0.618034, 0.754878]) % 1))
        return super().make(width, rngs)


class PartDeaf(Product):
    def make(self, width, rngs):
        self.deaf = nnx.Param(jax.random.normal(jax.random.PRNGKey(7), (width,)))
        return super().make(width, rngs)


class DeafInStack(nnx.Module):
    """A stack of layers whose kernels come from the key and whose scales do not."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        def body(count, key):
            scale = jax.random.uniform(jax.random.fold_in(jax.random.key(0), count), (width,))
            return count + 1, (LECUN(key, (width, width)), scale)

        _, (kernels, scales) = jax.lax.scan(body, 0, jax.random.split(rngs.params(), 3))
        self.kernels, self.scales = nnx.Param(kernels), nnx.Param(scales)

    def __call__(self, x):
        for num in range(3):
            x = x @ self.kernels[...][num] * self.scales[...][num]
        return x


class UnsplitStack(nnx.Module):
    """Four layers made by nnx.vmap from one key."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        key = rngs.params()
        make = nnx.vmap(lambda num: nnx.Linear(width, width, rngs=nnx.Rngs(key)), in_axes=0, out_axes=0)
        self.layers = make(jnp.arange(4))

    def __call__(self, x):
        for num in range(4):
            x = x @ self.layers.kernel[...][num] + self.layers.bias[...][num]
        return x


class SplitStack(nnx.Module):
    """Four layers made by nnx.vmap from four keys."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        make = nnx.vmap(lambda key: nnx.Linear(width, width, rngs=nnx.Rngs(key)), in_axes=0, out_axes=0)
        self.layers = make(jax.random.split(rngs.params(), 4))

    def __call__(self, x):
        for num in range(4):
            x = x @ self.layers.kernel[...][num] + self.layers.bias[...][num]
        return x


class PairedStack(SplitStack):
    """Four layers from two keys."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        make = nnx.vmap(lambda key: nnx.Linear(width, width, rngs=nnx.Rngs(key)), in_axes=0, out_axes=0)
        self.layers = make(jnp.repeat(jax.random.split(rngs.params(), 2), 2))


class OneKeyStack(SplitStack):
    """Four layers from the same key four times."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        make = nnx.vmap(lambda key: nnx.Linear(width, width, rngs=nnx.Rngs(key)), in_axes=0, out_axes=0)
        self.layers = make(jnp.repeat(rngs.params()[None], 4))


class Fused(nnx.Module):
    """Three kernels, drawn apart and put together."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jnp.concatenate([LECUN(rngs.params(), (width, width)) for _ in range(3)], -1))


class UnsplitFusedStack(nnx.Module):
    """Layers that put kernels together, each from the same key as the others."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        make = nnx.vmap(lambda rngs: Fused(width, rngs=rngs), in_axes=None, axis_size=4, out_axes=0)
        self.layers = make(rngs)

    def __call__(self, x):
        for num in range(4):
            x = (x @ self.layers.kernel[...][num])[..., : x.shape[-1]]
        return x


class UpcycledExperts(nnx.Module):
    """Experts that start as one dense layer; a router tells them apart."""

    copy = staticmethod(lambda kernel: jnp.tile(kernel[None], (4, 1, 1)))

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(self.copy(LECUN(rngs.params(), (width, width))))
        self.router = nnx.Linear(width, 4, rngs=rngs)

    def __call__(self, x):
        return jnp.einsum("be,bi,eio->bo", nnx.softmax(self.router(x)), x, self.kernel[...])


class StackedExperts(UpcycledExperts):
    copy = staticmethod(lambda kernel: jnp.stack([kernel] * 4))


class BroadcastExperts(UpcycledExperts):
    copy = staticmethod(lambda kernel: jnp.broadcast_to(kernel, (4, *kernel.shape)))


class Shuffled(Product):
    """Columns in equal pairs, as for a pixel shuffle that begins as a nearest neighbour."""

    def make(self, width, rngs):
        return jnp.repeat(LECUN(rngs.params(), (width, width // 2)), 2, axis=1)


class CopiedExperts(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        first = nnx.Linear(width, width, rngs=rngs)
        self.experts = nnx.List([first, nnx.clone(first)])

    def __call__(self, x):
        return self.experts[0](x) + self.experts[1](x)


class OwnExperts(CopiedExperts):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.experts = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])


class CopiedTarget(nnx.Module):
    """A network and the target that starts as its copy."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.online = nnx.Linear(width, width, rngs=rngs)
        self.target = nnx.clone(self.online)

    def __call__(self, x):
        return self.online(x) - jax.lax.stop_gradient(self.target(x))


class SeedFallback(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs | None = None):
        self.linear = nnx.Linear(width, width, rngs=nnx.Rngs(0) if rngs is None else rngs)

    def __call__(self, x):
        return self.linear(x)


class Identity(Product):
    def make(self, width, rngs):
        return jnp.eye(width)


class Cosines(Product):
    def make(self, width, rngs):
        steps = np.arange(width)
        return jnp.asarray(np.cos(np.pi / width * (steps[:, None] + 0.5) * steps), jnp.float32)


class Positions(nnx.Module):
    """A learnt table that starts from sines and cosines."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        angle = np.arange(16)[:, None] / 10000 ** (np.arange(width // 2) / (width // 2))
        self.table = nnx.Param(jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], -1), jnp.float32))
        self.linear = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.linear(x + self.table[...][: x.shape[0]])


class Grid(Product):
    def make(self, width, rngs):
        self.knots = nnx.Param(jnp.tile(jnp.linspace(-1.0, 1.0, 12), (width, 1)))
        return super().make(width, rngs) * self.knots[...].mean() + super().make(width, rngs)


class FixedFeatures(nnx.Module):
    """Untrained random features, from a key of their own."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.projection = nnx.Variable(jax.random.normal(jax.random.key(0), (width, 16)))
        self.out = nnx.Linear(16, width, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.cos(x @ self.projection[...]))


class Scan(nn.Module):
    """A Linen host that scans over three layers; `split` is nn.scan's."""

    layer: object = None
    split: bool = True

    @nn.compact
    def __call__(self, x):
        class Body(nn.Module):
            make: object

            @nn.compact
            def __call__(self, x, _):
                return self.make()(x), None

        scan = nn.scan(Body, variable_axes={"params": 0}, split_rngs={"params": self.split}, length=3)
        return scan(self.layer)(x, None)[0]


class Unsplit(Scan):
    split: bool = False
