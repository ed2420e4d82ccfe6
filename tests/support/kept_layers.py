"""Layers that keep what is no plain array: None, Python numbers, tuples, keys, narrow element types, a leaf `value`.

All of a kind are in one layer: a run of each would take minutes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

WIDTH = 8


class Noise(nnx.Variable):
    """A kind of Variable that flax does not know."""


class _Kept(nnx.Module):
    """A linear layer, and something kept beside it."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.keep(rngs)

    def keep(self, rngs: nnx.Rngs) -> None:
        raise NotImplementedError

    def __call__(self, x):
        return self.lin(x)


class Plain(_Kept):
    """The healthy one: an array."""

    def keep(self, rngs):
        self.rate = nnx.Variable(jnp.full((WIDTH,), 0.5))

    def __call__(self, x):
        return self.lin(x) * self.rate[...]


class Numbers(_Kept):
    """Numbers of Python and of NumPy, which the call uses; it counts its calls in one."""

    def keep(self, rngs):
        self.scale, self.calls = nnx.Param(1.5), nnx.BatchStat(0)
        self.on, self.turn = nnx.Variable(True), nnx.Variable(1j)
        self.scalar, self.array = nnx.Param(np.float32(0.5)), nnx.Param(np.full((WIDTH,), 0.5))

    def __call__(self, x):
        self.calls.set_value(self.calls.get_value() + 1)
        y = jnp.where(self.on.get_value(), self.lin(x), x) * jnp.abs(self.turn.get_value())
        return y * self.scale.get_value() * self.scalar.get_value() * self.array[...]


class Structures(_Kept):
    """None, alone in a module and beside others, and tuples of numbers and of arrays."""

    def keep(self, rngs):
        self.bias, self.inner = nnx.Param(None), nnx.Dict(bias=nnx.Param(None))
        self.sizes, self.carry = nnx.Cache((WIDTH, 2)), nnx.Cache((jnp.zeros(WIDTH), rngs.params.normal((WIDTH,))))

    def __call__(self, x):
        one, two = self.carry.get_value()
        return self.lin(x) * self.sizes.get_value()[1] + one + two


class Keys(_Kept):
    """Keys: a typed one that each call splits, its data, two of another generator, an attribute, a fork of streams."""

    def keep(self, rngs):
        self.key, self.raw = Noise(rngs.params()), Noise(jax.random.key_data(rngs.params()))
        self.keys = Noise(jax.random.split(jax.random.key(0, impl="rbg"), 2))
        self.bare, self.rngs = rngs.params(), rngs.fork()

    def __call__(self, x):
        self.key[...], now = jax.random.split(self.key[...])
        keys = [now, jax.random.wrap_key_data(self.raw[...]), self.keys[1], self.bare, self.rngs.params()]
        return self.lin(x) + sum(jax.random.normal(key, x.shape) for key in keys)


class Narrow(_Kept):
    """Element types of few bits, and others that are not float32."""

    dtypes = ("int2", "int4", "float8_e4m3fn", "float8_e5m2", "bfloat16", "bool", "complex64", "uint8")

    def keep(self, rngs):
        self.kept = nnx.Dict({name: nnx.Variable(jnp.arange(WIDTH).astype(name)) for name in self.dtypes})

    def __call__(self, x):
        return self.lin(x) + sum(jnp.real(leaf[...].astype(jnp.complex64)) for leaf in self.kept.values())


class Odd(Narrow):
    """Element types that safetensors has no name for."""

    dtypes = ("float4_e2m1fn", "float8_e3m4")


class Names(nnx.Module):
    """Names that are not ASCII, or those of a train state."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.γ, self.β = nnx.Param(jnp.ones(WIDTH)), nnx.Param(rngs.params.normal((WIDTH,)))
        self.step, self.opt_state = nnx.Linear(WIDTH, WIDTH, rngs=rngs), nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return self.γ * self.opt_state(self.step(x)) + self.β


class ValueParam(nnx.Module):
    """Has one param, called `value`."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.value = nnx.Param(rngs.params.normal((WIDTH,)))

    def __call__(self, x):
        return x * self.value


class ValueHead(nnx.Module):
    """A critic: its one child is called `value`."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.value = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, x):
        return self.value(x)[..., 0]


class ValueDeep(nnx.Module):
    """A param, a head, and modules, all called `value`, beside one in a metadata box."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.scale, self.critic = ValueParam(rngs=rngs), ValueHead(rngs=rngs)
        self.inner = nnx.Dict(value=nnx.Dict(value=nnx.Dict(value=nnx.Param(rngs.params.normal((WIDTH,))))))
        self.boxed = nnx.Param(rngs.params.normal((WIDTH,)), note="box")

    def __call__(self, x):
        return self.critic(self.scale(x) * self.inner.value.value.value + self.boxed)


class Text(_Kept):
    """Keeps a string: JAX refuses it."""

    def keep(self, rngs):
        self.mode = nnx.Variable("same")


class Empty(_Kept):
    """Keeps an array of size 0: Orbax refuses it."""

    def keep(self, rngs):
        self.none = nnx.Variable(jnp.zeros((0, WIDTH)))


class Unsaved(_Kept):
    """Keeps uint4: Orbax refuses it."""

    def keep(self, rngs):
        self.levels = nnx.Variable(jnp.arange(WIDTH).astype("uint4"))


class DictOfArrays(_Kept):
    """Keeps a dict of arrays in one Variable: flax does not load it."""

    def keep(self, rngs):
        self.both = nnx.Variable({"a": jnp.ones(WIDTH), "b": jnp.zeros(WIDTH)})

    def __call__(self, x):
        return self.lin(x) * self.both.get_value()["a"]
