"""Layers and hosts that rules and masks by path meet: names that they know, and names that they don't."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx, traverse_util
from flax.nnx import bridge
from jax.sharding import PartitionSpec

INIT = nnx.initializers.lecun_normal()
WIDTH = 4


class Known(nnx.Module):
    """Two matrices by the names that the old module had, and a scalar."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.scale[...] * self.down(nnx.relu(self.up(x)))


class Renamed(nnx.Module):
    """The same matrices by other names, in no module of their own."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.w_in = nnx.Param(INIT(rngs.params(), (width, 2 * width)))
        self.w_out = nnx.Param(INIT(rngs.params(), (2 * width, width)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(x @ self.w_in) @ self.w_out


class Mixed(Renamed):
    """Two matrices by a name that masks know, two by others, and vectors."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(width, rngs=rngs)
        self.first, self.last = (nnx.Linear(width, width, rngs=rngs) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(super().__call__(self.first(x)))


class Listed(nnx.Module):
    """Parts in a list: keys that are integers."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.parts = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.parts[1](self.parts[0](x))


class Attributes(nnx.Module):
    """The same parts as the fix of a list says."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        layers = [nnx.Linear(width, width, rngs=rngs) for _ in range(2)]
        for num, layer in enumerate(layers):
            setattr(self, f"layers_{num}", layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layers_1(self.layers_0(x))


class Named(nnx.Module):
    """A matrix with axis names: the bridge puts it into a box, so that its path ends in `value`."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        init = nnx.with_partitioning(INIT, ("embed", "mlp"))
        self.up = nnx.Linear(width, width, kernel_init=init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.up(x)


class Normed(nnx.Module):
    """A scale that some call gamma."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.gamma = nnx.Param(jnp.ones((width,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gamma


LAYERS = {cls.__name__: cls for cls in (Known, Renamed, Mixed, Listed, Attributes, Named, Normed)}


class LinenPart(nn.Module):
    """What a layer replaces: two Dense, or a norm."""

    norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.norm:
            return nn.LayerNorm(use_bias=False)(x)
        return nn.Dense(WIDTH, name="down")(nn.relu(nn.Dense(2 * WIDTH, name="up")(x)))


class Net(nn.Module):
    """A head behind a part, `Net()` in Linen, `Net("Renamed")` with a layer in its place; in a scan, or not."""

    layer: str | None = None
    norm: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        body = self._scanned if self.scan else self._part()
        return nn.Dense(WIDTH, name="head")(body(x))

    def _part(self) -> Any:
        if self.layer is None:
            return LinenPart(self.norm, name="ff")
        return bridge.to_linen(LAYERS[self.layer], WIDTH, name="ff")

    def _scanned(self, x: jax.Array) -> jax.Array:
        axes, keys = {"params": 0}, {"params": True}
        run = nn.scan(lambda part, x, _: (part(x), None), variable_axes=axes, split_rngs=keys, length=2)
        return run(self._part(), x, None)[0]


def partition_rules(catch_all: bool = True) -> tuple[tuple[str, PartitionSpec], ...]:
    """As EasyLM's configurations have them: the catch-all is the last."""
    rules = (
        ("ff/up/kernel", PartitionSpec("fsdp", "mp")),
        ("ff/down/kernel", PartitionSpec("mp", "fsdp")),
        ("head/kernel", PartitionSpec("fsdp", "mp")),
        ("bias", PartitionSpec(None)),
    )
    return (*rules, (".*", PartitionSpec(None))) if catch_all else rules


def kernels(params: Any) -> Any:
    """A mask as optax takes it: what is called kernel."""
    return traverse_util.path_aware_map(lambda path, _: "kernel" in "/".join(path), params)


def matrices(params: Any) -> Any:
    """A mask that asks no name."""
    return jax.tree.map(lambda leaf: len(leaf.shape) > 1, params)
