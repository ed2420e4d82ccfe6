"""Hosts that write `params_axes`, as T5X's do, and layers to put into them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.linen import partitioning
from flax.nnx import bridge

from runner.bridge.layers.axes import AxesToLinen

INIT = nnx.initializers.lecun_normal()
WIDTH = 4


class Gated(nnx.Module):
    """Two matrices with axis names, and a bias without."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        named = nnx.with_partitioning
        self.up = nnx.Linear(width, 2 * width, kernel_init=named(INIT, ("embed", "mlp")), rngs=rngs)
        self.down = nnx.Linear(2 * width, width, use_bias=False, kernel_init=named(INIT, ("mlp", "embed")), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.relu(self.up(x)))


class Short(nnx.Module):
    """A matrix with one name for two axes."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.up = nnx.Linear(width, width, kernel_init=nnx.with_partitioning(INIT, ("embed",)), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.up(x)


class Listed(nnx.Module):
    """The same matrices in a list."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.parts = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.parts[1](nnx.relu(self.parts[0](x)))


class Plain(nn.Module):
    """A Linen layer that says its axes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], x.shape[-1])
        kernel = partitioning.param_with_axes("kernel", nn.initializers.lecun_normal(), shape, axes=("embed", "mlp"))
        return jnp.dot(x, kernel)


def default(name: str) -> nn.Module:
    return bridge.to_linen(Gated, WIDTH, name=name)


def writing(name: str) -> nn.Module:
    return AxesToLinen(Gated, args=(WIDTH,), name=name)


def listed(name: str) -> nn.Module:
    return AxesToLinen(Listed, args=(WIDTH,), name=name)


def short(name: str) -> nn.Module:
    return AxesToLinen(Short, args=(WIDTH,), name=name)


class Block(nn.Module):
    """One block in scan form: a Linen layer with axes, then the layer."""

    layer: Any

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        return x + self.layer("mlp")(Plain(name="dense")(x)), None


class Stack(nn.Module):
    """Two blocks by `scan_with_axes`, which passes no metadata_params, or one after the other."""

    layer: Any
    scan: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.scan:
            return Block(self.layer, name="second")(Block(self.layer, name="first")(x)[0])[0]
        blocks = partitioning.scan_with_axes(
            nn.remat(Block),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=2,
            axis_name="layers",
        )
        return blocks(self.layer, name="blocks")(x, None)[0]
