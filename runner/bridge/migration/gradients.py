"""Tells two models that give the same numbers apart by their gradients: one of them may learn nothing, or otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runner.arrays.closeness import as_numbers, largest_finite
from runner.bridge.migration.program_in_mode import Program
from runner.bridge.migration.trial_values import Arrays
from runner.errors import listed

# Programs that do the same in another order round otherwise, which a deep net makes much of: relative to the largest
# value of the leaf, and of all gradients.
MAX_ROUNDED = 0.05
MAX_ROUNDED_OF_ALL = 1e-4


def compare(old: Program, new: Program, variables: Arrays, x: np.ndarray, leaves: Mapping[str, str]) -> str | None:
    """Where the gradients of two models differ by more than rounding.

    Args:
      old: The old model, in one mode.
      new: The new one, in the same.
      variables: Values of the old leaves.
      x: The input.
      leaves: The path of each old leaf in the new tree.

    Returns:
      The leaves, or how the new model can't be differentiated; empty if both are the same, and None if the old model
      has no gradients.
    """
    try:
        wanted = old.gradients(variables, x)
    except Exception:  # noqa: BLE001 - whatever JAX or the model raises: there is nothing to compare with
        return None
    try:
        got = new.gradients({leaves[name]: leaf for name, leaf in variables.items() if name in leaves}, x)
    except Exception as error:  # noqa: BLE001 - whatever JAX or the model raises
        return " ".join(f"it raises {type(error).__name__}: {error}".split())[:200]
    largest = max((largest_finite(leaf) for leaf in wanted.values()), default=0.0)
    pairs = {leaves.get(name, name): leaf for name, leaf in wanted.items() if leaves.get(name, name) in got}
    return listed(
        [_describe(name, leaf, got[name]) for name, leaf in pairs.items() if _differs(leaf, got[name], largest)]
    )


def _differs(wanted: np.ndarray, got: np.ndarray, largest: float) -> bool:
    one, two = as_numbers(wanted), as_numbers(got)
    if (np.isfinite(one) != np.isfinite(two)).any():
        return True
    finite = np.isfinite(one)
    distance = float(np.max(np.abs(one - two), where=finite, initial=0))
    return distance > max(MAX_ROUNDED * largest_finite(wanted), MAX_ROUNDED_OF_ALL * largest)


def _describe(name: str, wanted: np.ndarray, got: np.ndarray) -> str:
    if not largest_finite(got):
        return f"that of {name} is zero"
    return f"that of {name} differs by up to {float(np.nanmax(np.abs(as_numbers(got) - as_numbers(wanted)))):.2g}"
