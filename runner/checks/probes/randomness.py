"""Whether the values of an array look drawn at random, told from tables, bases and other constants that are meant."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

# Fewer elements can't be told from any other short list of numbers.
MIN_ELEMENTS = 8

# Of the mean squared step between neighbours to twice the variance: 1 for independent values, less for smooth ones.
SMOOTH = 0.55

# Share of different absolute values: bases, masks, stencils and symmetric windows repeat theirs, draws do not.
DISTINCT = 0.95

# Significant digits of a constant that is written in code, and how many values of an array tell.
DIGITS = 5
MAX_READ = 256

# Of arrays that are no weights by their place, so that a table is the likelier reading.
SURE_ELEMENTS = 32
SURE_DISTINCT = 0.9
# Of independent numbers the correlation is 0, and an estimate from n pairs is off by 1 / sqrt(n).
MAX_CORRELATION, NUM_ERRORS = 0.05, 2.5


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
    # A dtype of few bits has few numbers.
    enough = min(DISTINCT * values.size, 2.0 ** jnp.finfo(array.dtype).nmant)
    if not np.isfinite(values).all() or np.unique(np.abs(values)).size < enough or _is_written(array, values):
        return False
    axes = [axis for axis in range(values.ndim) if values.shape[axis] >= 3]
    return not any(_is_ordered(values, axis) or _is_smooth(values, axis) for axis in axes)


def is_surely_random(array: Any) -> bool:
    """Whether an array looks drawn though it may well be a table: of two axes or more, uncorrelated along each.

    Args:
      array: Any shape; only floating ones of at least `SURE_ELEMENTS` elements count.
    """
    if not np.issubdtype(array.dtype, np.floating) or array.ndim < 2 or array.size < SURE_ELEMENTS:
        return False
    numbers = np.asarray(array, np.float64)
    if not np.isfinite(numbers).all() or len(np.unique(np.abs(numbers).round(6))) < SURE_DISTINCT * numbers.size:
        return False
    axes = [axis for axis, size in enumerate(numbers.shape) if size > 1]
    return all(
        abs(_correlation(one, axis, lag)) < MAX_CORRELATION + NUM_ERRORS / _num_pairs(one, axis, lag) ** 0.5
        for one in (numbers, np.abs(numbers))
        for axis in axes
        for lag in (1, 2)
        if numbers.shape[axis] > lag + 1
    )


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


def repeated_slices(array: np.ndarray) -> tuple[int, list[list[int]]] | None:
    """The first axis along which some slices are equal though their values differ, and which; None if there is none.

    Args:
      array: Any shape; slices of fewer than `MIN_ELEMENTS` numbers may be equal by chance, so they never count.
    """
    for axis in range(array.ndim if jnp.issubdtype(array.dtype, jnp.inexact) else 0):
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        if len(rows) < 2 or rows.shape[1] < MIN_ELEMENTS:
            continue
        # Slices that are equal begin equally.
        begins: dict[bytes, list[int]] = {}
        for num, row in enumerate(rows):
            begins.setdefault(row[:MIN_ELEMENTS].tobytes(), []).append(num)
        likely = [nums for nums in begins.values() if len(nums) > 1 and is_drawn(rows[nums[0]])]
        groups = [nums for nums in likely if all(np.array_equal(rows[nums[0]], rows[num]) for num in nums)]
        if groups:
            return axis, groups
    return None


def is_drawn(array: np.ndarray) -> bool:
    """Whether nearly all values of an array differ, so that two that are equal are so by no chance."""
    enough = min(DISTINCT * array.size, 2.0 ** jnp.finfo(array.dtype).nmant / 2)
    return array.size >= MIN_ELEMENTS and np.unique(array).size >= enough


def _is_written(array: np.ndarray, values: np.ndarray) -> bool:
    """Whether most values are short decimals, as constants are written in code; a drawn float32 has seven digits."""
    if jnp.finfo(array.dtype).nmant < 20:
        return False
    flat = values.ravel()
    rounded = np.asarray([f"{value:.{DIGITS - 1}e}" for value in flat[:MAX_READ]], array.dtype)
    return bool((rounded == array.ravel()[:MAX_READ]).mean() > 0.5)


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


def _num_pairs(numbers: np.ndarray, axis: int, lag: int) -> int:
    return numbers.size // numbers.shape[axis] * (numbers.shape[axis] - lag)


def _correlation(numbers: np.ndarray, axis: int, lag: int) -> float:
    """Of the numbers with those `lag` further along the axis."""
    size = numbers.shape[axis]
    one, two = (np.take(numbers, range(start, size - lag + start), axis).ravel() for start in (0, lag))
    if one.std() == 0 or two.std() == 0:
        return 1.0
    return float(np.corrcoef(one, two)[0, 1])
