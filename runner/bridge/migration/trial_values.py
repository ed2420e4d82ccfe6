"""Values to try a model on: random variables and inputs, and a leaf with every element changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from runner.arrays import trees

Arrays = Mapping[str, np.ndarray]

# From a leaf's path, shape, stored value and a generator to its values.
Draw = Callable[[str, Any, "np.ndarray | None", np.random.Generator], np.ndarray]


def random_variables(shapes: Mapping[str, Any], stored: Arrays | None, seed: int, draw: Draw) -> dict[str, np.ndarray]:
    """Random values for every floating leaf; the others as they are stored, or zeros."""
    random = np.random.default_rng(seed + 1)
    found = {}
    for name, leaf in shapes.items():
        kept = None if stored is None else stored[name]
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            found[name] = np.asarray(draw(name, leaf, kept, random)).astype(leaf.dtype)
        else:
            found[name] = np.zeros(leaf.shape, leaf.dtype) if kept is None else kept
    return found


def _spread(name: str, leaf: Any, _: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    if leaf.ndim < 2 or not name.startswith("params/"):
        return _positive(name, leaf, None, random)
    return _complex(leaf, random.standard_normal(leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 1)), random)


def _positive(_: str, leaf: Any, __: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    return _complex(leaf, random.uniform(0.5, 1.5, leaf.shape), random)


def _near(name: str, leaf: Any, kept: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    return _positive(name, leaf, None, random) if kept is None else kept * random.uniform(0.9, 1.1, leaf.shape)


def _complex(leaf: Any, values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return values + 1j * random.uniform(0.5, 1.5, leaf.shape) if is_complex else values


# Ways to draw a leaf, the next one where the model gives NaN: of the size of weights, but what has one axis, and
# statistics, near one; all positive, for what a logarithm is taken of; near what is stored.
DRAWS: Sequence[Draw] = (_spread, _positive, _near)


def scaled(variables: Arrays, names: Iterable[str], scale: float) -> dict[str, np.ndarray]:
    """The floating ones of some leaves, `scale` times as large."""
    found = {name: variables[name] for name in names if jnp.issubdtype(variables[name].dtype, jnp.inexact)}
    return {name: np.asarray(leaf * np.asarray(scale, leaf.dtype)) for name, leaf in found.items()}


def num_ids(shapes: Mapping[str, Any]) -> int:
    """How many integers every embedding of a model has a row for, by Linen's name for its table; 0 if there is none."""
    tables = (leaf for name, leaf in shapes.items() if name.endswith("/embedding") and leaf.ndim > 1)
    return min((leaf.shape[0] for leaf in tables), default=0)


def random_input(x: Any, seed: int, scale: float, ids: int = 0) -> np.ndarray:
    """A random input like `x`; an integer one is `x` itself for the first seed or if `ids` is 0, else below `ids`."""
    given, random = np.asarray(x), np.random.default_rng(seed + 100)
    if given.dtype == bool and seed:
        return random.integers(0, 2, given.shape).astype(bool)
    if not jnp.issubdtype(given.dtype, jnp.inexact):
        if not (jnp.issubdtype(given.dtype, jnp.integer) and ids and seed):
            return given
        return random.integers(0, min(ids, jnp.iinfo(given.dtype).max), given.shape).astype(given.dtype)
    values = _complex(given, random.standard_normal(given.shape), random) * scale
    return values.astype(given.dtype)


def changed(leaf: np.ndarray) -> np.ndarray:
    """`leaf` with every element changed."""
    if leaf.dtype == bool:
        return ~leaf
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return np.asarray(leaf + np.ones((), leaf.dtype))
    # Another change for every element: what scales, or shifts, all alike may be normalised away.
    steps = np.random.default_rng(7).uniform(0.25, 0.75, leaf.shape)
    return np.asarray(leaf + steps.astype(leaf.dtype)).astype(leaf.dtype)


def is_finite(arrays: Arrays) -> bool:
    """Whether no array has a NaN, and each a finite element."""
    floating = [trees.as_float64(leaf) for leaf in arrays.values() if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    # Infinities may be meant: a mask is -inf.
    return all(not np.isnan(leaf).any() and (not leaf.size or np.isfinite(leaf).any()) for leaf in floating)


def same(one: np.ndarray | None, two: np.ndarray) -> bool:
    """Whether both are the same bits."""
    return one is not None and trees.array_digest(one) == trees.array_digest(two)
