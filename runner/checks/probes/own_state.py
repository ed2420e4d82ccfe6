"""The variables that a wrapped layer makes for itself: which are drawn, and which a call of the host changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from runner.bridge.rngs import key_shape
from runner.bridge.tracing import jaxprs
from runner.bridge.tracing.captured import Captured
from runner.checks.programs import flow


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A variable of a wrapped layer.

    Attributes:
      collection: Its collection in Linen.
      path: Its path in the layer.
      weight: Whether it is an `nnx.Param`.
      filled: Whether its type is one that layers fill by themselves: statistics, caches.
      drawn: Whether its first value depends on the layer's key.
      changed: Whether the call changes it; True where that can't be traced.
    """

    collection: str
    path: tuple[Any, ...]
    weight: bool
    filled: bool
    drawn: bool
    changed: bool

    @property
    def is_constant(self) -> bool:
        """Whether every apply would make the value that it has, though init may not keep it."""
        return not (self.weight or self.filled or self.drawn or self.changed)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What a call of the layer does with one of its variables.

    Attributes:
      collection: Its collection in NNX.
      path: Its path in the layer.
      variable: The variable, shapes in place of arrays.
      read: Whether the output, or a variable that the call changes, depends on it.
      changed: Whether the call changes it.
    """

    collection: str
    path: tuple[Any, ...]
    variable: Any
    read: bool
    changed: bool


def names_of(call: Captured) -> list[tuple[str, tuple[Any, ...]]]:
    """Collection and path of each of them."""
    return [(collection_of(leaf), path) for path, leaf in kept(call.module)]


def leaves_of(call: Captured) -> list[Leaf]:
    """Each of them with what it is."""
    own = kept(call.module)
    key = key_shape()
    made = jax.make_jaxpr(lambda key: _values(call.construct(nnx.Rngs(key))))(key)
    drawn = [flow.read(made, [num == other for other in range(len(own))])[0] for num in range(len(own))]
    return [
        Leaf(
            collection=collection_of(leaf),
            path=path,
            weight=isinstance(leaf, nnx.Param),
            filled=isinstance(leaf, (nnx.BatchStat, nnx.Cache)),
            drawn=is_drawn,
            changed=is_changed,
        )
        for (path, leaf), is_drawn, is_changed in zip(own, drawn, _changed(call, len(own)), strict=True)
    ]


def flows_of(call: Captured) -> list[Flow]:
    """What the call does with each of them; empty where that can't be traced."""
    own = kept(call.module)
    try:
        closed = _traced(call, len(own))
    except Exception:  # noqa: BLE001 - whatever the layer's own code raises
        return []
    if closed is None:
        return []
    moved = jaxprs.changed(closed, range(len(own)))
    read = flow.read(closed, [*moved, *[True] * (len(closed.jaxpr.outvars) - len(own))])
    return [
        Flow(collection=collection_of(leaf), path=path, variable=leaf, read=is_read, changed=is_changed)
        for (path, leaf), is_read, is_changed in zip(own, read[: len(own)], moved, strict=True)
    ]


def _changed(call: Captured, number: int) -> list[bool]:
    try:
        closed = _traced(call, number)
        return [True] * number if closed is None else jaxprs.changed(closed, range(number))
    except Exception:  # noqa: BLE001 - whatever the layer's own code raises
        return [True] * number


def _traced(call: Captured, number: int) -> Any:
    """The jaxpr of the call: `(its variables, arrays) -> (its variables, output)`; None if one is no single array."""

    def run(values: list[Any], arrays: list[Any]) -> Any:
        module = call.construct(nnx.Rngs(0))
        variables = [leaf for _, leaf in kept(module)]
        for leaf, value in zip(variables, values, strict=True):
            leaf.set_value(value)
        output = call.run(module, arrays)
        return [leaf.get_value() for leaf in variables], output

    values = jax.eval_shape(lambda: _values(call.construct(nnx.Rngs(0))))
    return None if len(jax.tree.leaves(values)) != number else jax.make_jaxpr(run)(values, call.arrays)


def _values(module: nnx.Module) -> list[Any]:
    return [leaf.get_value() for _, leaf in kept(module)]


def kept(module: nnx.Module) -> list[tuple[tuple[Any, ...], nnx.Variable[Any]]]:
    """The variables that a Linen pipeline has to keep: not the keys, and not what is sown."""
    state = nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngState)))
    return [
        (path, leaf)
        for path, leaf in state
        if isinstance(leaf, nnx.Variable) and not isinstance(leaf, nnx.Intermediate) and jax.tree.leaves(leaf)
    ]


def collection_of(leaf: Any) -> str:
    """The collection that NNX has for a variable of its type."""
    return str(nnx.variable_name_from_type(type(leaf), allow_register=True))
