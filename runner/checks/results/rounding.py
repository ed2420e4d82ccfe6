"""Classifies the difference between two results of one computation: none, rounding, or real."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runner.arrays import closeness

ROUNDED = "rounded otherwise"


def difference(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> str:
    """Describes how `got` differs from `wanted`; '' for equal bits. `checks.are_close` defines rounding."""
    found = closeness.differences(got, wanted)
    if not found:
        return ""
    other = [f"{path or 'output'} {item}" for path, item in found.items() if not isinstance(item, dict)]
    if other:
        return f"changes the output: {', '.join(other)}"
    ulp = max(item["ulp"] for item in found.values())
    return f"{ROUNDED} ({ulp} ulp)" if closeness.are_close(got, wanted) else f"changes the bits ({ulp} ulp)"


def is_rounding(found: str) -> bool:
    """Whether `difference` found only rounding."""
    return found.startswith(ROUNDED)


def is_wrong(found: str) -> bool:
    """Whether `difference` found more than rounding."""
    return bool(found) and not is_rounding(found)


def as_words(found: str) -> str:
    """The result of `difference` as the end of a sentence."""
    return f"is {found}" if is_rounding(found) else found or "gives the same bits"
