"""Params that a module reaches through what is no tree: a plain object, a function's closure, a `functools.partial`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence, Set
from types import FunctionType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np
from flax import nnx

# How far is looked: an object in a list in a closure.
MAX_DEPTH = 4

# Looked up first: a vocabulary has many.
_PLAIN = frozenset({str, bytes, bool, int, float, complex, type(None)})

_NO_HOLDERS = (type, ModuleType, jax.Array, np.ndarray, nnx.Rngs, nnx.RngStream, nnx.Variable)


def of(nodes: Sequence[tuple[Sequence[Any], Any]]) -> tuple[list[str], list[str]]:
    """The attributes that are no tree and hold Params, of a module and of the modules in it.

    Args:
      nodes: What `nnx.iter_graph` gives of the module.

    Returns:
      Those with a Param that the module's state has not; and those that hold Params of its state a second time.
    """
    own = {id(node) for _, node in nodes}
    hidden, held_twice = [], []
    for path, inner in nodes:
        if not isinstance(inner, nnx.Module):
            continue
        for name, value in vars(inner).items():
            if name.startswith("_pytree__") or isinstance(value, (nnx.Variable, nnx.Module)):
                continue
            found = [id(holder) in own for holder in _holders(value, own, MAX_DEPTH)]
            place = ".".join(map(str, (*path, name)))
            if not all(found):
                hidden.append(place)
            elif found and not isinstance(value, nnx.Pytree):
                held_twice.append(place)
    return hidden, held_twice


def _holders(value: Any, own: Set[int], depth: int) -> Iterator[Any]:
    """The Params that a value reaches; of a module that is in the tree, with its id in `own`, the module."""
    if type(value) in _PLAIN:
        return
    if isinstance(value, nnx.Param):
        yield value
    elif isinstance(value, nnx.Module):
        if id(value) in own:
            yield value
        else:
            yield from (node for _, node in nnx.iter_graph(value) if isinstance(node, nnx.Param))
    elif depth and not isinstance(value, _NO_HOLDERS):
        for held in _held(value):
            yield from _holders(held, own, depth - 1)


def _held(value: Any) -> list[Any]:
    """What a value that is no tree holds."""
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    return list(getattr(value, "__dict__", {}).values())


def _is_empty(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False
