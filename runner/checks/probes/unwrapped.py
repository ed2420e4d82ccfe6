"""The native module inside a wrapped layer, built again outside the wrapper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from runner.bridge.layers import axes


def constructor(model: Any) -> Callable[[Mapping[str, Any]], nnx.Module] | None:
    """Builds the native module of a wrapped layer, some arguments replaced; None for another Linen module."""
    if not hasattr(model, "nnx_class"):
        return None

    def construct(replaced: Mapping[str, Any]) -> nnx.Module:
        return axes.construct(model, nnx.Rngs(0), replaced)

    return construct


def holds_raw_arrays(model: Any) -> bool:
    """Whether an attribute of the native module is an array and no `nnx.Variable`; True where it can't be told."""
    construct = constructor(model)
    if construct is None:
        return True
    found: list[Any] = []

    def look() -> None:
        for _, module in nnx.iter_modules(construct({})):
            leaves = jax.tree.leaves(vars(module), is_leaf=lambda node: isinstance(node, (nnx.Variable, nnx.Pytree)))
            found.extend(leaf for leaf in leaves if isinstance(leaf, jax.Array) and not isinstance(leaf, nnx.Variable))

    jax.eval_shape(look)
    return bool(found)
