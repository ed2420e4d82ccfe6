"""Values to try a model on: random variables and inputs, and a leaf with every element changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from runner.arrays import trees

Arrays = Mapping[str, np.ndarray]


def random_variables(
    shapes: Mapping[str, Any], stored: Arrays | None, seed: int, *, positive: bool
) -> dict[str, np.ndarray]:
    """Random values for every floating leaf; the others as they are stored, or ones."""
    random = np.random.default_rng(seed + 1)
    return {name: _random_leaf(name, leaf, stored, random, positive) for name, leaf in shapes.items()}


def _random_leaf(name: str, leaf: Any, stored: Arrays | None, random: np.random.Generator, positive: bool) -> Any:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        if stored is not None:
            return stored[name]
        return np.zeros(leaf.shape, leaf.dtype)
    shape = tuple(leaf.shape)
    if positive or len(shape) < 2 or not name.startswith("params/"):
        values = random.uniform(0.5, 1.5, shape)
    else:
        values = random.standard_normal(shape) / np.sqrt(max(np.prod(shape[:-1]), 1))
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        values = values + 1j * random.uniform(0.5, 1.5, shape)
    return np.asarray(values).astype(leaf.dtype)


def random_input(x: Any, seed: int, scale: float) -> np.ndarray:
    """A random input like `x`; an integer one is `x` itself."""
    given = np.asarray(x)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        return given
    values = np.random.default_rng(seed + 100).standard_normal(given.shape) * scale
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
