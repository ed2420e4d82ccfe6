"""Whether the values of an array look drawn at random, told from tables, bases and other constants that are meant."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

# Fewer elements can't be told from any other short list of numbers.
MIN_ELEMENTS = 8

# Of the mean squared step between neighbours to twice the variance: 1 for independent values, less for smooth ones.
SMOOTH = 0.55

# Share of different absolute values: bases, masks, stencils and symmetric windows repeat theirs, draws do not.
DISTINCT = 0.95


def looks_random(array: np.ndarray) -> bool:
    """Whether a floating or complex array looks drawn: values that differ, in no order, smooth along no axis.

    Args:
      array: Any shape; fewer than `MIN_ELEMENTS` elements, and integers, never look random.
    """
    if array.size < MIN_ELEMENTS or not jnp.issubdtype(array.dtype, jnp.inexact):
        return False
    if np.iscomplexobj(array):
        return looks_random(array.real) and looks_random(array.imag)
    values = np.asarray(array, np.float64)
    if not np.isfinite(values).all() or np.unique(np.abs(values)).size < DISTINCT * values.size:
        return False
    axes = [axis for axis in range(values.ndim) if values.shape[axis] >= 3]
    return not any(_is_ordered(values, axis) or _is_smooth(values, axis) for axis in axes)


def equal_slices(array: np.ndarray) -> int | None:
    """The first axis along which all slices are equal though the values within one differ; None if there is none.

    Args:
      array: Any shape; integers may be equal by chance, so they never count.
    """
    for axis in range(array.ndim if jnp.issubdtype(array.dtype, jnp.inexact) else 0):
        first = array.take(0, axis) if array.shape[axis] > 1 else array.reshape(-1)[:1]
        if first.size < 2 or np.unique(first).size < DISTINCT * first.size:
            continue
        if np.array_equal(first, array.take(1, axis)) and (array == np.expand_dims(first, axis)).all():
            return axis
    return None


def _is_ordered(values: np.ndarray, axis: int) -> bool:
    """Whether most lines along the axis only rise or only fall."""
    steps = np.diff(values, axis=axis)
    one_way = (steps >= 0).all(axis) | (steps <= 0).all(axis)
    return values.shape[axis] > 3 and bool(one_way.mean() > 0.5)


def _is_smooth(values: np.ndarray, axis: int) -> bool:
    """Whether neighbours along the axis are closer than independent values would be, or alternate."""
    centred = values - values.mean(axis, keepdims=True)
    variance = float((centred**2).mean())
    if variance == 0 or values.shape[axis] < 5:
        return False
    return float((np.diff(values, axis=axis) ** 2).mean()) < SMOOTH * 2 * variance
