"""The variables that a wrapped layer makes for itself: which are drawn, and which a call of the host changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

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


def names_of(call: Captured) -> list[tuple[str, tuple[Any, ...]]]:
    """Collection and path of each of them."""
    return [(_collection(leaf), path) for path, leaf in kept(call.module)]


def leaves_of(call: Captured) -> list[Leaf]:
    """Each of them with what it is."""
    own = kept(call.module)
    key = jax.ShapeDtypeStruct((2,), "uint32")
    made = jax.make_jaxpr(lambda key: _values(call.construct(nnx.Rngs(key))))(key)
    drawn = [flow.read(made, [num == other for other in range(len(own))])[0] for num in range(len(own))]
    return [
        Leaf(
            collection=_collection(leaf),
            path=path,
            weight=isinstance(leaf, nnx.Param),
            filled=isinstance(leaf, (nnx.BatchStat, nnx.Cache)),
            drawn=is_drawn,
            changed=is_changed,
        )
        for (path, leaf), is_drawn, is_changed in zip(own, drawn, _changed(call, len(own)), strict=True)
    ]


def _changed(call: Captured, number: int) -> list[bool]:
    def run(values: list[Any], arrays: list[Any]) -> list[Any]:
        module = call.construct(nnx.Rngs(0))
        variables = [leaf for _, leaf in kept(module)]
        for leaf, value in zip(variables, values, strict=True):
            leaf.set_value(value)
        call.run(module, arrays)
        return [leaf.get_value() for leaf in variables]

    try:
        values = jax.eval_shape(lambda: _values(call.construct(nnx.Rngs(0))))
        if len(jax.tree.leaves(values)) != number:
            return [True] * number
        return jaxprs.changed(jax.make_jaxpr(run)(values, call.arrays), range(number))
    except Exception:  # noqa: BLE001 - whatever the layer's own code raises
        return [True] * number


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


def _collection(leaf: Any) -> str:
    return str(nnx.variable_name_from_type(type(leaf), allow_register=True))
