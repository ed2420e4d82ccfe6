"""Hosts whose lifts carry all that a wrapped layer keeps, and hosts whose lifts leave some out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge
from own_variables import Average

PARAMS = {"params": True, "dropout": True}


class Table(nnx.Variable):
    pass


class Plain(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.linear(x)


class Counts(Plain):
    """Keeps statistics, as a BatchNorm does."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.linear(x))


class Averages(Plain):
    """Keeps an average in a type of its own."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.mean = Average(jnp.zeros(4))

    def __call__(self, x):
        self.mean[...] = 0.9 * self.mean[...] + 0.1 * x.mean(0)
        return self.linear(x - self.mean[...])


class Remembers(Plain):
    """Keeps what it has seen in a Cache."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.last = nnx.Cache(jnp.zeros((2, 4)))

    def __call__(self, x):
        y = self.linear(x + self.last[...])
        self.last[...] = x
        return y


class Looks(Plain):
    """Looks up a table that nothing changes."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.table = Table(jnp.sin(jnp.arange(4.0)))

    def __call__(self, x):
        return self.linear(x + self.table[...])


class Drawn(Looks):
    """The table is drawn."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.table = Table(jax.random.normal(rngs.params(), (4,)))


class Sows(Plain):
    """Drops, and tells what it saw: neither is to be kept."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        y = self.dropout(self.linear(x))
        self.sow(nnx.Intermediate, "seen", y)
        return y


class Block(nn.Module):
    layer: Any = Counts

    @nn.compact
    def __call__(self, x, _=None):
        return bridge.to_linen(self.layer, name="layer")(x), None


class Scan(nn.Module):
    """A stack: an axis for these collections."""

    layer: Any = Counts
    axes: tuple[str, ...] = ("params",)
    remat: bool = False
    axis: int = 0

    @nn.compact
    def __call__(self, x):
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        axes = dict.fromkeys(self.axes, self.axis)
        return nn.scan(block, variable_axes=axes, split_rngs=PARAMS, length=2)(self.layer, name="blocks")(x, None)[0]


class Chunks(nn.Module):
    """The same layer for each row of x, with more arguments of `nn.scan`."""

    layer: Any = Counts
    more: Any = None

    @nn.compact
    def __call__(self, x):
        layer = bridge.to_linen(self.layer, name="ffn")
        given = {"variable_broadcast": "params", "split_rngs": {"params": False, "dropout": True}, **(self.more or {})}
        return nn.scan(lambda ffn, carry, part: (carry, ffn(part)), **given)(layer, None, x[:, None])[1][:, 0]


class Group(nn.Module):
    """A stack of blocks in a block of a stack."""

    layer: Any
    inner: tuple[str, ...]

    @nn.compact
    def __call__(self, x, _):
        axes = dict.fromkeys(self.inner, 0)
        return nn.scan(Block, variable_axes=axes, split_rngs=PARAMS, length=2)(self.layer, name="inner")(x, None)[
            0
        ], None


class Nested(nn.Module):
    layer: Any = Counts
    outer: tuple[str, ...] = ("params",)
    inner: tuple[str, ...] = ("params",)

    @nn.compact
    def __call__(self, x):
        axes = dict.fromkeys(self.outer, 0)
        stack = nn.scan(Group, variable_axes=axes, split_rngs=PARAMS, length=2)
        return stack(self.layer, self.inner, name="outer")(x, None)[0]


class Maps(nn.Module):
    """A layer for each entry (or one for all, with None) of a batch."""

    layer: Any = Counts
    axes: Any = (("params", 0),)

    @nn.compact
    def __call__(self, x):
        axes = dict(self.axes)
        split = {"params": axes["params"] is not None, "dropout": True}
        return nn.vmap(Block, variable_axes=axes, split_rngs=split)(self.layer, name="blocks")(x[:, None])[0][:, 0]


class MapsVariables(nn.Module):
    """Sees the variables through a function, that of apply without a way back where `mutable` is False."""

    layer: Any = Counts
    mapped: Any = "params"
    variables: Any = True
    mutable: bool = True

    @nn.compact
    def __call__(self, x):
        more = {"init": self.is_initializing(), "mutable": self.mutable, "variables": self.variables}
        return nn.map_variables(Block, self.mapped, lambda tree: tree, **more)(self.layer, name="block")(x)[0]


# Made at import, as modules of pipelines are.
STACK = nn.scan(Block, variable_axes={"params": 0}, split_rngs=PARAMS, length=2)
WHOLE_STACK = nn.scan(Block, variable_axes={"params": 0, "batch_stats": 0}, split_rngs=PARAMS, length=2)


class Imported(nn.Module):
    whole: bool = False

    @nn.compact
    def __call__(self, x):
        return (WHOLE_STACK if self.whole else STACK)(name="blocks")(x, None)[0]


class Remat(nn.Module):
    """A layer under `nn.remat` that lets these collections through."""

    variables: Any = True

    @nn.compact
    def __call__(self, x):
        return nn.remat(Block, variables=self.variables)(name="block")(x)[0]


class Loops(nn.Module):
    """A layer in a loop of apply, which hands on what is carried."""

    carried: Any = False

    @nn.compact
    def __call__(self, x):
        layer = bridge.to_linen(Counts, name="layer")
        if self.is_initializing():
            return layer(x)

        def more(layer, state):
            return state[0] < 2

        def body(layer, state):
            return state[0] + 1, layer(state[1])

        return nn.while_loop(more, body, layer, (0, x), carry_variables=self.carried)[1]


class Hosted(nn.Module):
    """A stack of a layer from outside."""

    layer: Any
    axes: tuple[str, ...] = ("params",)

    @nn.compact
    def __call__(self, x):
        def body(layer, x, _):
            return layer(x), None

        axes = dict.fromkeys(self.axes, 0)
        return nn.scan(body, variable_axes=axes, split_rngs=PARAMS, length=2)(self.layer(), x, None)[0]
