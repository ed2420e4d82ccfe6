"""Layers that keep what is no plain array: None, Python numbers, tuples, keys, narrow element types, a leaf `value`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Noise(nnx.Variable):
    """A kind of Variable that flax does not know."""


class _Kept(nnx.Module):
    """A linear layer, and something kept beside it."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs):
        self.lin = nnx.Linear(width, width, rngs=rngs)
        self.keep(width, rngs)

    def keep(self, width: int, rngs: nnx.Rngs) -> None:
        raise NotImplementedError

    def __call__(self, x):
        return self.lin(x)


class Healthy(_Kept):
    """Keeps a float32 array."""

    def keep(self, width, rngs):
        self.rate = nnx.Variable(jnp.full((width,), 0.5))

    def __call__(self, x):
        return self.lin(x) * self.rate[...]


class NoneParam(_Kept):
    """Keeps None where a bias may be, as in `bias if use_bias else nnx.Param(None)`."""

    def keep(self, width, rngs):
        self.bias = nnx.Param(None)


class NoneAlone(nnx.Module):
    """Has a module with None alone."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.inner, self.lin = nnx.Dict(bias=nnx.Param(None)), nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        return self.lin(x)


class PythonFloat(_Kept):
    """Keeps a Python float, and multiplies by it."""

    def keep(self, width, rngs):
        self.scale = nnx.Param(1.5)

    def __call__(self, x):
        return self.lin(x) * self.scale.get_value()


class PythonInt(_Kept):
    """Counts its calls in a Python int."""

    def keep(self, width, rngs):
        self.calls = nnx.BatchStat(0)

    def __call__(self, x):
        self.calls.set_value(self.calls.get_value() + 1)
        return self.lin(x)


class PythonBool(_Kept):
    """Keeps a Python bool."""

    def keep(self, width, rngs):
        self.on = nnx.Variable(True)

    def __call__(self, x):
        return jnp.where(self.on.get_value(), self.lin(x), x)


class PythonComplex(_Kept):
    """Keeps a Python complex number."""

    def keep(self, width, rngs):
        self.turn = nnx.Variable(1j)

    def __call__(self, x):
        return self.lin(x) * jnp.abs(self.turn.get_value())


class Tuple(_Kept):
    """Keeps a tuple of Python ints."""

    def keep(self, width, rngs):
        self.sizes = nnx.Cache((width, width))

    def __call__(self, x):
        return self.lin(x) * self.sizes.get_value()[0]


class TupleOfArrays(_Kept):
    """Keeps a carry: a tuple of arrays."""

    def keep(self, width, rngs):
        self.carry = nnx.Cache((jnp.zeros(width), jnp.ones(width)))

    def __call__(self, x):
        one, two = self.carry.get_value()
        return self.lin(x) + one * two


class DictOfArrays(_Kept):
    """Keeps a dict of arrays in one Variable."""

    def keep(self, width, rngs):
        self.both = nnx.Variable({"a": jnp.ones(width), "b": jnp.zeros(width)})

    def __call__(self, x):
        return self.lin(x) * self.both.get_value()["a"]


class Text(_Kept):
    """Keeps a string."""

    def keep(self, width, rngs):
        self.mode = nnx.Variable("same")


class TypedKey(_Kept):
    """Keeps a typed key, and splits it at every call."""

    def keep(self, width, rngs):
        self.key = Noise(rngs.params())

    def __call__(self, x):
        new, now = jax.random.split(self.key[...])
        self.key[...] = new
        return self.lin(x) + jax.random.normal(now, x.shape)


class RawKey(_Kept):
    """Keeps a raw uint32 key."""

    def keep(self, width, rngs):
        self.key = Noise(jax.random.key_data(rngs.params()))

    def __call__(self, x):
        return self.lin(x) + jax.random.normal(jax.random.wrap_key_data(self.key[...]), x.shape)


class BareKey(_Kept):
    """Keeps a typed key as a plain attribute."""

    def keep(self, width, rngs):
        self.key = rngs.params()

    def __call__(self, x):
        return self.lin(x) + jax.random.normal(self.key, x.shape)


class Keys(_Kept):
    """Keeps two typed keys of another generator."""

    def keep(self, width, rngs):
        self.keys = Noise(jax.random.split(jax.random.key(0, impl="rbg"), 2))

    def __call__(self, x):
        return self.lin(x) + jax.random.normal(self.keys[1], x.shape)


class Forked(_Kept):
    """Keeps a fork of its streams, as flax's own Dropout does."""

    def keep(self, width, rngs):
        self.rngs = rngs.fork()

    def __call__(self, x):
        return self.lin(x) + jax.random.normal(self.rngs.params(), x.shape)


class _Narrow(_Kept):
    dtype = "float32"

    def keep(self, width, rngs):
        self.scale = nnx.Variable(jnp.arange(width).astype(self.dtype))

    def __call__(self, x):
        return self.lin(x) * self.scale[...].astype(jnp.float32)


class Int4(_Narrow):
    """Keeps int4."""

    dtype = "int4"


class Uint4(_Narrow):
    """Keeps uint4."""

    dtype = "uint4"


class Int2(_Narrow):
    """Keeps int2."""

    dtype = "int2"


class Float8(_Narrow):
    """Keeps float8_e4m3fn."""

    dtype = "float8_e4m3fn"


class Float8Odd(_Narrow):
    """Keeps float8_e3m4."""

    dtype = "float8_e3m4"


class Float4(_Narrow):
    """Keeps float4_e2m1fn."""

    dtype = "float4_e2m1fn"


class Bfloat16(_Narrow):
    """Keeps bfloat16."""

    dtype = "bfloat16"


class Bool(_Narrow):
    """Keeps bool."""

    dtype = "bool"


class Complex(_Kept):
    """Keeps complex64."""

    def keep(self, width, rngs):
        self.turn = nnx.Variable(jnp.full((width,), 1j))

    def __call__(self, x):
        return self.lin(x) * jnp.abs(self.turn[...])


class Empty(_Kept):
    """Keeps an array of size 0."""

    def keep(self, width, rngs):
        self.none = nnx.Variable(jnp.zeros((0, width)))


class Numpy(_Kept):
    """Keeps a NumPy array of float64."""

    def keep(self, width, rngs):
        self.scale = nnx.Param(np.full((width,), 0.5))

    def __call__(self, x):
        return self.lin(x) * self.scale[...]


class NumpyScalar(_Kept):
    """Keeps a NumPy scalar."""

    def keep(self, width, rngs):
        self.scale = nnx.Param(np.float32(0.5))

    def __call__(self, x):
        return self.lin(x) * self.scale.get_value()


class Greek(nnx.Module):
    """Keeps params with names that are not ASCII."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.γ, self.β = nnx.Param(jnp.ones(8)), nnx.Param(jax.random.normal(rngs.params(), (8,)))

    def __call__(self, x):
        return self.γ * x + self.β


class ValueParam(nnx.Module):
    """Has one param, called `value`."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.value = nnx.Param(jax.random.normal(rngs.params(), (8,)))

    def __call__(self, x):
        return x * self.value


class ValueHead(nnx.Module):
    """A critic: its one child is called `value`."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.value = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.value(x)[..., 0]


class ValueDeep(nnx.Module):
    """A torso and a critic."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.torso, self.critic = nnx.Linear(8, 8, rngs=rngs), ValueHead(rngs=rngs)

    def __call__(self, x):
        return self.critic(self.torso(x))


class ValueTwice(nnx.Module):
    """A value in a value in a value."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.value = nnx.Dict(value=nnx.Dict(value=nnx.Param(jax.random.normal(rngs.params(), (8,)))))

    def __call__(self, x):
        return x * self.value.value.value


class ParamsHead(nnx.Module):
    """Its one child is called `params`."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.params = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        return self.params(x)


class Step(nnx.Module):
    """Its children are called as the fields of a train state."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.step, self.opt_state = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        return self.opt_state(self.step(x))
