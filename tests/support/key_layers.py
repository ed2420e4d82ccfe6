"""Layers that use a key twice, and layers that look as if they did."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge
from jax import lax
from jax.sharding import PartitionSpec

WIDTH = 8


def drop(key, x):
    return x * jax.random.bernoulli(key, 0.5, x.shape)


class Keyed(nnx.Module):
    """Calls `use` with one key of the stream dropout, and the output of a linear layer."""

    def __init__(self, *, rngs):
        self.lin, self.rngs = nnx.Linear(WIDTH, WIDTH, rngs=rngs), rngs

    def __call__(self, x):
        return self.use(self.rngs.dropout(), self.lin(x))


def of(use):
    """A layer that calls `use(key, x)`."""
    return bridge.to_linen(type(use.__name__, (Keyed,), {"use": staticmethod(use)}))


# One key, used more than once.


def same_mask(key, x):
    return drop(key, jnp.sin(drop(key, x)))


def two_shapes(key, x):
    return x * jax.random.bernoulli(key, 0.5, x.shape) + jax.random.normal(key, (WIDTH,))


def two_distributions(key, x):
    return x + jax.random.normal(key, x.shape) * jax.random.uniform(key, x.shape)


def key_data_twice(key, x):
    raw = jax.random.key_data(key)
    return drop(jax.random.wrap_key_data(raw), x) + drop(key, jnp.cos(x))


def python_loop(key, x):
    for _ in range(3):
        x = jnp.sin(drop(key, x))
    return x


def same_fold(key, x):
    return drop(jax.random.fold_in(key, 1), jnp.sin(drop(jax.random.fold_in(key, 1), x)))


def same_half(key, x):
    return drop(jax.random.split(key)[0], x) + drop(jax.random.split(key)[0], jnp.sin(x))


def in_two_jits(key, x):
    return jax.jit(drop)(key, x) + jax.jit(lambda k, x: drop(k, jnp.sin(x)))(key, x)


def outside_and_in_a_branch(key, x):
    return lax.cond(x.sum() > 0, drop, lambda _, x: x, key, drop(key, x))


def scan_with_one_key(key, x):
    return lax.scan(lambda x, _: (jnp.sin(drop(key, x)), None), x, length=3)[0]


def fori_with_one_key(key, x):
    return lax.fori_loop(0, 3, lambda _, x: jnp.sin(drop(key, x)), x)


def while_with_one_key(key, x):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(drop(key, c[1]))), (0, x))[1]


def key_carried_unchanged(key, x):
    return lax.scan(lambda c, _: ((c[0], jnp.sin(drop(c[0], c[1]))), None), (key, x), length=3)[0][1]


def map_with_one_key(key, x):
    return lax.map(lambda row: drop(key, row), x)


def keys_repeated(key, x):
    return lax.scan(lambda x, k: (jnp.sin(drop(k, x)), None), x, jnp.broadcast_to(key, (3,)))[0]


def batch_of_one_key(key, x):
    return jax.vmap(drop)(jnp.broadcast_to(key, (x.shape[0],)), x)


def gamma_twice(key, x):
    return x + jax.random.gamma(key, 2.0, x.shape) - jax.random.gamma(key, 2.0, x.shape)


def poisson_twice(key, x):
    return x + jax.random.poisson(key, 2.0, x.shape) * jnp.sin(jax.random.poisson(key, 2.0, x.shape) + x)


FAULTY = (
    same_mask,
    two_shapes,
    two_distributions,
    key_data_twice,
    python_loop,
    same_fold,
    same_half,
    in_two_jits,
    outside_and_in_a_branch,
    scan_with_one_key,
    fori_with_one_key,
    while_with_one_key,
    key_carried_unchanged,
    map_with_one_key,
    keys_repeated,
    batch_of_one_key,
    gamma_twice,
    poisson_twice,
)


# Each draw with a key of its own, though it may not look so.


def one_mask_twice(key, x):
    mask = jax.random.bernoulli(key, 0.5, x.shape)
    return mask * jnp.sin(mask * x)


def split_keys(key, x):
    one, two = jax.random.split(key)
    return drop(one, jnp.sin(drop(two, x)))


def other_folds(key, x):
    return drop(jax.random.fold_in(key, 1), jnp.sin(drop(jax.random.fold_in(key, 2), x)))


def one_of_two_branches(key, x):
    return lax.cond(x.sum() > 0, drop, lambda k, x: x + jax.random.normal(k, x.shape), key, x)


def folded_in_a_loop(key, x):
    return lax.fori_loop(0, 3, lambda i, x: jnp.sin(drop(jax.random.fold_in(key, i), x)), x)


def split_in_a_loop(key, x):
    def step(carry, _):
        now, later = jax.random.split(carry[0])
        return (later, jnp.sin(drop(now, carry[1]))), None

    return lax.scan(step, (key, x), length=3)[0][1]


def keys_of_a_loop(key, x):
    return lax.scan(lambda x, k: (jnp.sin(drop(k, x)), None), x, jax.random.split(key, 3))[0]


def nested_loops(key, x):
    def outer(i, x):
        now = jax.random.fold_in(key, i)
        return lax.fori_loop(0, 2, lambda j, x: drop(jax.random.fold_in(now, j), x), x)

    return lax.fori_loop(0, 3, outer, x)


def key_for_each_row(key, x):
    return jax.vmap(drop)(jax.random.split(key, x.shape[0]), x)


def one_mask_for_a_batch(key, x):
    return jax.vmap(lambda row: drop(key, row))(x)


def loop_of_one_round(key, x):
    return lax.scan(lambda x, _: (drop(key, x), None), x, length=1)[0]


def rematerialised(key, x):
    return jax.checkpoint(lambda x: jnp.sin(drop(key, jnp.sin(x))))(x)


def gradient_through_remat(key, x):
    return jax.grad(lambda x: jax.checkpoint(lambda x: jnp.sin(drop(key, jnp.sin(x))))(x).sum())(x)


def over_devices(key, x):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("data")
    return jax.shard_map(drop, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows)(key, x)


def dead_draw(key, x):
    drop(key, x)
    return drop(key, jnp.sin(x))


HEALTHY = (
    one_mask_twice,
    split_keys,
    other_folds,
    one_of_two_branches,
    folded_in_a_loop,
    split_in_a_loop,
    keys_of_a_loop,
    nested_loops,
    key_for_each_row,
    one_mask_for_a_batch,
    loop_of_one_round,
    rematerialised,
    gradient_through_remat,
    over_devices,
    dead_draw,
)


# Keys that the layer keeps among its variables.


class KeepsKey(Keyed):
    """The key of every call, drawn once by the constructor."""

    make, kind = staticmethod(lambda key: key), nnx.Variable

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.key = self.kind(self.make(rngs.noise()))

    def __call__(self, x):
        return drop(self.key[...], self.lin(x))


class KeepsKeyData(KeepsKey):
    make = staticmethod(jax.random.key_data)

    def __call__(self, x):
        return drop(jax.random.wrap_key_data(self.key[...]), self.lin(x))


class KeepsSeed(KeepsKey):
    make = staticmethod(lambda key: jax.random.randint(key, (), 0, 1000))

    def __call__(self, x):
        return drop(jax.random.key(self.key[...]), self.lin(x))


class AdvancesKey(KeepsKey):
    """Splits the key at every call, in a collection that the call changes."""

    kind = nnx.BatchStat

    def __call__(self, x):
        key, now = jax.random.split(self.key.get_value())
        self.key.set_value(key)
        return drop(now, self.lin(x))


class FoldsStream(KeepsSeed):
    """A number of its own, folded into the key that each call gets."""

    def __call__(self, x):
        return drop(jax.random.fold_in(self.rngs.dropout(), self.key[...]), self.lin(x))


class KeepsDrawn(KeepsKey):
    """Random features, drawn once, with an order of whole numbers."""

    make = staticmethod(lambda key: jax.random.permutation(key, WIDTH))

    def __call__(self, x):
        return self.lin(x)[..., self.key[...]]


# Functions of jax.random that draw more than once inside, from keys that they split themselves.

DISTRIBUTIONS = {
    "bernoulli": lambda key, shape: jax.random.bernoulli(key, 0.5, shape),
    "beta": lambda key, shape: jax.random.beta(key, 2.0, 3.0, shape),
    "binomial": lambda key, shape: jax.random.binomial(key, 5.0, 0.5, shape),
    "categorical": lambda key, shape: jax.random.categorical(key, jnp.zeros((*shape, 4))),
    "choice": lambda key, shape: jax.random.choice(key, 100, shape, replace=False),
    "dirichlet": lambda key, shape: jax.random.dirichlet(key, jnp.ones(shape[-1]), shape[:-1]),
    "double_sided_maxwell": lambda key, shape: jax.random.double_sided_maxwell(key, 0.0, 1.0, shape),
    "gamma": lambda key, shape: jax.random.gamma(key, 2.0, shape),
    "generalized_normal": lambda key, shape: jax.random.generalized_normal(key, 2.0, shape),
    "complex normal": lambda key, shape: jax.random.normal(key, shape, jnp.complex64).real,
    "orthogonal": lambda key, shape: jax.random.orthogonal(key, shape[-1]),
    "permutation": lambda key, shape: jax.random.permutation(key, shape[-1]),
    "permutation of rows": lambda key, shape: jax.random.permutation(key, jnp.zeros(shape), axis=1, independent=True),
    "poisson": lambda key, shape: jax.random.poisson(key, 2.0, shape),
    "rademacher": lambda key, shape: jax.random.rademacher(key, shape),
    "randint": lambda key, shape: jax.random.randint(key, shape, 0, 7),
    "t": lambda key, shape: jax.random.t(key, 2.0, shape),
    "truncated_normal": lambda key, shape: jax.random.truncated_normal(key, -1.0, 1.0, shape),
    "wald": lambda key, shape: jax.random.wald(key, 2.0, shape),
}


# Params.


class Made(nnx.Module):
    """Two Params of the shapes that are given, from one key, or from a key each."""

    def __init__(self, second=(WIDTH, WIDTH), *, each=False, rngs):
        key = rngs.params()
        other = rngs.params() if each else key
        self.first = nnx.Param(nnx.initializers.lecun_normal()(key, (WIDTH, WIDTH)))
        self.second = nnx.Param(nnx.initializers.lecun_normal()(other, second))

    def __call__(self, x):
        return x @ self.first[...] + (x * self.second[...].mean())


class Copied(nnx.Module):
    """Two Params that start as one array on purpose."""

    def __init__(self, *, rngs):
        start = nnx.initializers.lecun_normal()(rngs.params(), (WIDTH, WIDTH))
        self.first, self.second = nnx.Param(start), nnx.Param(start.T)

    def __call__(self, x):
        return x @ self.first[...] @ self.second[...]


class Stacked(nnx.Module):
    """Weights of three layers, stacked: a key each, or one for all."""

    def __init__(self, *, each=False, rngs):
        key = rngs.params()
        keys = jax.random.split(key, 3) if each else jnp.broadcast_to(key, (3,))
        self.kernels = nnx.Param(jax.vmap(lambda key: jax.random.normal(key, (WIDTH, WIDTH)))(keys))

    def __call__(self, x):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, self.kernels[...])[0]


class Layer(nn.Module):
    """Linear, then dropout, as a round of `nn.scan`."""

    @nn.compact
    def __call__(self, x, _):
        x = bridge.to_linen(nnx.Linear, WIDTH, WIDTH, name="lin")(x)
        return bridge.to_linen(nnx.Dropout, 0.5, deterministic=False, name="drop")(x), None


class Scans(nn.Module):
    """`Layer` in a scan of flax: over layers, whose weights are stacked, or over steps, which share them."""

    split: bool = False
    steps: bool = False

    @nn.compact
    def __call__(self, x):
        how = {"variable_broadcast": "params"} if self.steps else {"variable_axes": {"params": 0}}
        split = {"params": not self.steps, "dropout": self.split}
        return nn.scan(Layer, split_rngs=split, length=3, **how)()(x, None)[0]
