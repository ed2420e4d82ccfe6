"""Compares arrays: bitwise, in ulps, and within the rounding differences that XLA fusion explains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from runner.arrays import trees
from runner.errors import listed

# Summing in a different order is off by a few ulps of the largest term.
MAX_ROUNDING = 64

# Compared at once: what is made of large arrays on the way, as 64-bit numbers, would need several times their memory.
BLOCK_ELEMENTS = 2**18


def differences(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Differences between two sets of named arrays: distance in ulps, or arrays missing from either."""
    found: dict[str, Any] = dict(_unequal(first, second))
    for path, what in found.items():
        if what is None:
            pairs = list(_blocks(first[path], second[path]))
            ulp = max(trees.ulp_distance(one, two) for one, two in pairs)
            found[path] = {"ulp": ulp, "num_elements": sum(int(np.sum(one != two)) for one, two in pairs)}
    return found


def _unequal(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, str | None]:
    """The paths whose arrays differ, and how; None where only their bits do."""
    found: dict[str, str | None] = {}
    for path in sorted(first.keys() | second.keys()):
        one, two = first.get(path), second.get(path)
        if one is None or two is None:
            found[path] = "only in the first" if two is None else "only in the second"
        elif (one.shape, one.dtype) != (two.shape, two.dtype):
            found[path] = f"{describe(one)} against {describe(two)}"
        elif any(part.tobytes() != other.tobytes() for part, other in _blocks(one, two)):
            found[path] = None
    return found


def _blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """The elements of arrays of one shape in C order, a block at a time; what is contiguous is not copied."""
    flat = [np.ravel(array) for array in arrays]
    for start in range(0, flat[0].size, BLOCK_ELEMENTS):
        yield tuple(one[start : start + BLOCK_ELEMENTS] for one in flat)


def are_close(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    """Whether two sets of named arrays are equal up to rounding.

    Differences up to `MAX_ROUNDING` times the dtype's resolution, at the scale of the largest value of all, count as
    rounding: a gradient that is zero up to rounding has no scale of its own.
    """
    found = _unequal(first, second)
    if any(what is not None for what in found.values()):
        return False
    largest = max((largest_finite(leaf) for leaf in second.values()), default=0.0)
    return all(_is_close(first[path], second[path], largest) for path in found)


def largest_finite(leaf: np.ndarray) -> float:
    """The largest absolute value of an array, of its finite ones; 0 where it has none."""
    largest = 0.0
    for (block,) in _blocks(leaf):
        values = np.abs(as_numbers(block))
        largest = max(largest, float(np.max(values, where=np.isfinite(values), initial=0)))
    return largest


def _is_close(got: np.ndarray, wanted: np.ndarray, largest: float) -> bool:
    if not jnp.issubdtype(got.dtype, jnp.inexact):
        return False
    atol = MAX_ROUNDING * float(jnp.finfo(got.dtype).eps) * largest
    return all(
        np.allclose(as_numbers(one), as_numbers(two), rtol=0, atol=atol, equal_nan=True)
        for one, two in _blocks(got, wanted)
    )


def apart(kept: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray]) -> float:
    """Largest difference of arrays with the same names, dtypes and shapes, relative to the largest value in `kept`."""
    with np.errstate(invalid="ignore"):  # of two infinities
        pairs = [(as_numbers(kept[name]), as_numbers(made[name])) for name in kept]
        largest = max((float(np.nanmax(np.abs(one), initial=0.0)) for one, _ in pairs), default=0.0)
        distance = max((float(np.nanmax(np.abs(one - two), initial=0.0)) for one, two in pairs), default=0.0)
    return distance / largest if largest else distance


def as_numbers(array: np.ndarray) -> np.ndarray:
    """`array` as float64; complex arrays as real and imaginary parts, concatenated."""
    parts = (array.real, array.imag) if np.iscomplexobj(array) else (array,)
    return np.concatenate([trees.as_float64(np.ravel(part)) for part in parts])


def largest_differences(found: Mapping[str, Any]) -> str:
    """Describes the first three of `differences`, and counts the rest."""
    parts = [
        f"{path or 'output'} by {item['ulp']} ulp" if isinstance(item, dict) else f"{path or 'output'} ({item})"
        for path, item in found.items()
    ]
    return listed(parts)


def describe(leaf: Any) -> str:
    """Dtype and shape of an array: `float32[4, 8]`."""
    return f"{leaf.dtype}{list(leaf.shape)}"
