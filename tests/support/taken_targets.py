"""What `layer.target` and `host.target` may name, and what not: the tables of docs/tutorial."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
from flax import nnx


class Outer:
    class Inner(nnx.Module):
        def __init__(self, din, dout, *, rngs):
            self.linear = nnx.Linear(din, dout, rngs=rngs)

        def __call__(self, x):
            return self.linear(x)

        @classmethod
        def create(cls, din, dout, *, rngs):
            return cls(din, dout, rngs=rngs)


@dataclasses.dataclass
class Data(nnx.Module):
    din: int
    dout: int
    rngs: nnx.Rngs

    def __post_init__(self):
        self.linear = nnx.Linear(self.din, self.dout, rngs=self.rngs)

    def __call__(self, x):
        return self.linear(x)


def function(din, dout, rngs):
    return nnx.Linear(din, dout, rngs=rngs)


of_class = functools.partial(Outer.Inner, dout=8)
of_function = functools.partial(function, 8)
with_rngs = functools.partial(function, 4, 8, nnx.Rngs(0))


class OtherName(nnx.Module):
    def __init__(self, din, dout, *, rng: nnx.Rngs):
        self.linear = nnx.Linear(din, dout, rngs=rng)

    def __call__(self, x):
        return self.linear(x)


class Key(nnx.Module):
    def __init__(self, din, dout, key):
        self.kernel = nnx.Param(jax.random.normal(key, (din, dout)))

    def __call__(self, x):
        return x @ self.kernel[...]


class NoRngs(nnx.Module):
    def __init__(self, scale=2.0):
        self.scale = scale

    def __call__(self, x):
        return x * self.scale


def function_without_rngs():
    return NoRngs()


class PositionalOnly(nnx.Module):
    def __init__(self, din, dout, rngs, /):
        self.linear = nnx.Linear(din, dout, rngs=rngs)


class Needy(nnx.Module):
    def __init__(self, din, wobble, *, rngs):
        self.linear = nnx.Linear(din, wobble, rngs=rngs)

    def __call__(self, x):
        return self.linear(x)


class TwoInputs(nnx.Module):
    def __init__(self, din, dout, *, rngs):
        self.linear = nnx.Linear(din, dout, rngs=rngs)

    def __call__(self, x, y):
        return self.linear(x) + y


class NoCall(nnx.Module):
    def __init__(self, din, dout, *, rngs):
        self.linear = nnx.Linear(din, dout, rngs=rngs)

    def attend(self, x):
        return self.linear(x)


class Neither:
    def __init__(self, *, rngs):
        self.rngs = rngs


instance = NoRngs()


class Host(nn.Module):
    layer: Any

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(self.layer()(x))


class SetupHost(nn.Module):
    layer: Any = None

    def setup(self):
        self.inner = self.layer()

    def __call__(self, x):
        return self.inner(x)


class CallingHost(nn.Module):
    layer: Any = None

    @nn.compact
    def __call__(self, x):
        return self.layer(x)


class NamingHost(nn.Module):
    layer: Any = None

    @nn.compact
    def __call__(self, x):
        return self.layer(name="mlp")(x)


class SharingHost(nn.Module):
    layer: Any = None

    @nn.compact
    def __call__(self, x):
        layer = self.layer()
        return layer(layer(x))


class DoublingHost(nn.Module):
    layer: Any = None

    @nn.compact
    def __call__(self, x):
        return self.layer()(x) + self.layer()(x)


class WideHost(nn.Module):
    width: int
    layer: Any = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(self.layer()(x))


class SwitchedHost(nn.Module):
    layer: Any = None

    @nn.compact
    def __call__(self, x, train: bool):
        return nn.Dropout(0.5, deterministic=not train)(self.layer()(x))


class IdleHost(nn.Module):
    layer: Any = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(x)


class ArguingHost(nn.Module):
    layer: Any = None

    @nn.compact
    def __call__(self, x):
        return self.layer(features=8)(x)


class OtherFieldHost(nn.Module):
    block: Any = None

    @nn.compact
    def __call__(self, x):
        return self.block()(x)


def host_function(layer=None):
    return Host(layer=layer)


# What is typed after the target, the exit code of `check --traced`, and what it then names.
LAYERS = {
    "Outer.Inner": ("", 0, ""),
    "Outer.Inner.create": ("", 0, ""),
    "Data": ("", 0, ""),
    "function": ("", 0, ""),
    "of_class": ("", 0, ""),
    "of_function": ("", 0, ""),
    "with_rngs": ("", 2, "neither an nnx.Module nor a factory that takes rngs"),
    "OtherName": ("", 0, ""),
    "Key": ("", 0, ""),
    "NoRngs": ("", 0, ""),
    "function_without_rngs": ("", 2, "neither an nnx.Module nor a factory that takes rngs"),
    "PositionalOnly": ("", 2, "takes no arguments"),
    "Needy": ("", 2, "layer.kwargs.wobble="),
    "Needy ": ("layer.kwargs.wobble=3", 0, ""),
    "TwoInputs": ("", 2, "'y'"),
    "TwoInputs ": ("input.shapes={y:[2,8]}", 0, ""),
    "NoCall": ("layer.nnx_method=attend", 0, ""),
    "Neither": ("", 2, "no flax.nnx.Module"),
    "instance": ("", 2, "neither an nnx.Module nor a factory that takes rngs"),
    "Host": ("", 2, "already is Linen"),
}
HOSTS = {
    "Host": ("", 0, ""),
    "SetupHost": ("", 0, ""),
    "CallingHost": ("", 0, ""),
    "NamingHost": ("", 0, ""),
    "SharingHost": ("", 0, ""),
    "DoublingHost": ("", 2, "host.layer_name=null"),
    "DoublingHost ": ("host.layer_name=null", 0, ""),
    "WideHost": ("", 2, "host.kwargs.width="),
    "WideHost ": ("host.kwargs.width=3", 0, ""),
    "SwitchedHost": ("", 2, "host.call.train="),
    "SwitchedHost ": ("host.call.train=false", 0, ""),
    "IdleHost": ("", 1, "the host never calls the layer"),
    "ArguingHost": ("", 2, "'features'"),
    "OtherFieldHost": ("", 2, "no field `layer`"),
    "host_function": ("", 2, "no flax.linen.Module class"),
}
