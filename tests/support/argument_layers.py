"""Layers that look at what their arguments are: lists, dicts, text, functions, objects."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Optional

import jax
import jax.numpy as jnp
from flax import nnx

TABLE = {"relu": jax.nn.relu, "tanh": jnp.tanh, "mish2": lambda x: x * jnp.tanh(jax.nn.softplus(x))}


class Widths(nnx.Module):
    """Builds other widths of what is no list, and takes the first from it."""

    def __init__(self, din: int, hidden, dout: int, *, rngs: nnx.Rngs):
        widths = [din, *(hidden if type(hidden) is list else [3]), dout]
        if type(hidden) is list:
            hidden.pop()  # its own list: changing it changes no later construction
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


class Pair(nnx.Module):
    """Wants a tuple, by its annotation."""

    def __init__(self, dout: int, shape: tuple[int, int] = (1, 1), *, rngs: nnx.Rngs):
        assert type(shape) is tuple
        self.lin = nnx.Linear(shape[0], dout, rngs=rngs)

    def __call__(self, x):
        return self.lin(x)


class Dicts(nnx.Module):
    """A dict with a list in it; both types are looked at."""

    def __init__(self, config, *, rngs: nnx.Rngs):
        real = type(config) is dict and type(config["widths"]) is list and type(config["more"]) is dict
        self.lin = nnx.Linear(config["widths"][0], config["more"]["dout"] if real else 1, rngs=rngs)
        self.act = TABLE[config["activation"]]

    def __call__(self, x):
        return self.act(self.lin(x))


class Acts(nnx.Module):
    """Keeps its argument."""

    def __init__(self, value, *, rngs: nnx.Rngs):
        self.value = nnx.static(value)

    def __call__(self, x):
        return x


class Plain(Acts):
    def __init__(self, activation: str = "relu", *, rngs: nnx.Rngs):
        super().__init__(activation, rngs=rngs)


class Maybe(Acts):
    def __init__(self, activation: Optional[str] = None, *, rngs: nnx.Rngs):  # noqa: UP045 - as it is found
        super().__init__(activation, rngs=rngs)


class OneOf(Acts):
    def __init__(self, kernel_init: Literal["fan", "unit"] = "fan", *, rngs: nnx.Rngs):
        super().__init__(kernel_init, rngs=rngs)


class Bare(Acts):
    def __init__(self, pool_fn="mean", *, rngs):
        super().__init__(pool_fn, rngs=rngs)


class DtypeText(Acts):
    def __init__(self, dtype: str = "float32", *, rngs):
        super().__init__(dtype, rngs=rngs)


class Names(Acts):
    def __init__(self, activations: list[str], *, rngs):
        super().__init__(activations, rngs=rngs)


class Both(Acts):
    def __init__(self, activation: str | Callable, *, rngs):
        super().__init__(activation, rngs=rngs)


class Func(Acts):
    def __init__(self, activation_function=nnx.relu, *, rngs):
        super().__init__(activation_function, rngs=rngs)


class Called(Acts):
    def __init__(self, squash: Callable[[jax.Array], jax.Array], *, rngs):
        super().__init__(squash, rngs=rngs)


class Funcs(Acts):
    def __init__(self, squashes=(nnx.relu,), *, rngs):
        super().__init__(squashes, rngs=rngs)


class Norm(Acts):
    def __init__(self, norm_cls: type[nnx.Module] = nnx.LayerNorm, *, rngs):
        super().__init__(norm_cls, rngs=rngs)


class Open(Acts):
    def __init__(self, activation, *, rngs):
        super().__init__(activation, rngs=rngs)


@dataclass
class Config:
    """A config object; it can't be hashed."""

    width: int
    activation: str = "relu"
    gate: Callable[[jax.Array], jax.Array] = nnx.sigmoid


class FromConfig(nnx.Module):
    """Built from an object."""

    def __init__(self, din: int, config: Config, *, rngs: nnx.Rngs):
        assert isinstance(config, Config)
        self.lin, self.act, self.gate = nnx.Linear(din, config.width, rngs=rngs), TABLE[config.activation], config.gate

    def __call__(self, x):
        return self.gate(self.act(self.lin(x)))


class Outer(nnx.Module):
    """Holds a module that is made before it, and a factory of more."""

    def __init__(self, inner: nnx.Module, block: Callable[..., nnx.Module], *, rngs: nnx.Rngs):
        self.inner, self.block = inner, block(rngs=rngs)

    def __call__(self, x):
        return self.block(self.inner(x))
