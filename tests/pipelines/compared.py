"""Comparisons of trees and arrays that the proofs make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def named(tree: Any) -> dict[str, Any]:
    """The leaves of `tree` by their paths, joined with `/`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in named(tree).items()}


def require_equal_bits(first: Any, second: Any) -> int:
    """The number of leaves, which are the same in both trees, bit for bit.

    Raises:
      AssertionError: With the names of the leaves that differ.
    """
    one, other = named(first), named(second)
    assert one.keys() == other.keys(), sorted(one.keys() ^ other.keys())
    differing = [name for name in one if not _same(one[name], other[name])]
    assert not differing, f"{len(differing)} of {len(one)} leaves differ: {differing[:4]}"
    return len(one)


def _same(one: Any, other: Any) -> bool:
    first, second = np.asarray(one), np.asarray(other)
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


def filled(shapes: Mapping[str, Any], seed: int = 0) -> Any:
    """A tree like `shapes` with small random leaves."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.asarray(0.1 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)
