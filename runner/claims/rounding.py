"""How two results of one computation differ: not at all, by rounding, or for real."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from runner import checks, trees

ROUNDED = "rounded otherwise"

# A sum in another order is off by a few units in the last place of the largest number in it.
MAX_ROUNDING = 64


def difference(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> str:
    """How `got` differs from `wanted`, as words; '' for the same bits.

    Numbers that lie `MAX_ROUNDING` times the resolution of their type apart, at the scale of the largest of them all,
    are taken for rounding: a gradient that is zero but for rounding has no scale of its own.
    """
    found = checks.differences(got, wanted)
    if not found:
        return ""
    other = [f"{path or 'output'} {item}" for path, item in found.items() if not isinstance(item, dict)]
    if other:
        return f"changes the output: {', '.join(other)}"
    ulp = max(item["ulp"] for item in found.values())
    largest = max(float(np.max(np.abs(trees.as_float64(leaf)), initial=0)) for leaf in wanted.values())
    close = all(_close(got[path], wanted[path], largest) for path in found)
    return f"{ROUNDED} ({ulp} ulp)" if close else f"changes the bits ({ulp} ulp)"


def is_rounding(found: str) -> bool:
    """Whether `difference` found rounding and no more."""
    return found.startswith(ROUNDED)


def is_wrong(found: str) -> bool:
    """Whether `difference` found more than rounding."""
    return bool(found) and not is_rounding(found)


def as_words(found: str) -> str:
    """What `difference` found, as the end of a sentence."""
    return f"is {found}" if is_rounding(found) else found or "gives the same bits"


def _close(got: np.ndarray, wanted: np.ndarray, largest: float) -> bool:
    if not jnp.issubdtype(got.dtype, jnp.inexact):
        return False
    atol = MAX_ROUNDING * float(jnp.finfo(got.dtype).eps) * largest
    return bool(np.allclose(trees.as_float64(got), trees.as_float64(wanted), rtol=0, atol=atol, equal_nan=True))
