"""Values that a layer keeps in Python: copied so that a call can't change the copy, and compared by what they hold."""

from __future__ import annotations

import collections
import copy
import random
import sys
from typing import Any

import jax
import numpy as np
from flax import nnx

from runner.checks.user_code import swapped

NODES = (nnx.Variable, nnx.Pytree)

SIMPLE = (bool, int, float, complex, str, bytes, type(None), np.generic, np.ndarray, jax.Array)

_LISTS = (list, set, collections.deque)
_DICTS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
_GENERATORS = (random.Random, np.random.RandomState, np.random.Generator)

# Objects hold objects: as deep as a layer's own records go.
MAX_DEPTH = 4


def copied(value: Any, depth: int = 0) -> Any:
    """A copy with containers, generators and objects of the layer's own classes that are copies too."""
    try:
        return _copied(value, depth)
    except Exception:  # noqa: BLE001 - whatever the object's own code raises
        return value


def _copied(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return value
    if type(value) in _GENERATORS:
        return copy.deepcopy(value)
    if type(value) in _LISTS or type(value) in _DICTS:
        new = copy.copy(value)
        if type(value) is set:
            return new
        for key, item in list(new.items() if isinstance(new, dict) else enumerate(new)):
            new[key] = copied(item, depth + 1)
        return new
    if _is_own(value):
        new = copy.copy(value)
        vars(new).update({name: copied(item, depth + 1) for name, item in vars(value).items()})
        return new
    return value


def same(one: Any, two: Any, depth: int = 0) -> bool:
    """Whether both hold the same; arrays of a trace are the same only if they are one."""
    if one is two or depth > MAX_DEPTH:
        return True
    if type(one) is not type(two):
        return False
    if isinstance(one, (*_LISTS, tuple, dict)):
        if len(one) != len(two):
            return False
        # Of a set only the size: its items may be compared by identity.
        return isinstance(one, set) or all(same(*pair, depth + 1) for pair in _pairs(one, two))
    if is_traced(one) or is_traced(two):
        return False
    if isinstance(one, SIMPLE):
        return bool(np.array_equal(np.asarray(one), np.asarray(two)))
    if isinstance(one, _GENERATORS):
        return _position(one) == _position(two)
    # Of any other object nothing can be compared.
    return not _is_own(one) or same(vars(one), vars(two), depth + 1)


def is_traced(value: Any) -> bool:
    """Whether an array of a trace is in `value`."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def _is_own(value: Any) -> bool:
    """Whether `value` is an object of a class of the layer's author, no function, class or node of a module."""
    kind = type(value)
    return hasattr(value, "__dict__") and not isinstance(value, NODES) and swapped.is_user(kind.__module__)


def _pairs(one: Any, two: Any) -> list[tuple[Any, Any]]:
    if isinstance(one, dict):
        return [(value, two.get(key)) for key, value in one.items()]
    return list(zip(one, two, strict=True))


def _position(generator: Any) -> str:
    if isinstance(generator, random.Random):
        return str(generator.getstate())
    found = generator.bit_generator.state if isinstance(generator, np.random.Generator) else generator.get_state()
    with np.printoptions(threshold=sys.maxsize):
        return str(found)
