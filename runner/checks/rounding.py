"""How two results of one computation differ: not at all, by rounding, or for real."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runner.arrays import closeness

ROUNDED = "rounded otherwise"


def difference(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> str:
    """How `got` differs from `wanted`, as words; '' for the same bits. See `checks.are_close` for what is rounding."""
    found = closeness.differences(got, wanted)
    if not found:
        return ""
    other = [f"{path or 'output'} {item}" for path, item in found.items() if not isinstance(item, dict)]
    if other:
        return f"changes the output: {', '.join(other)}"
    ulp = max(item["ulp"] for item in found.values())
    return f"{ROUNDED} ({ulp} ulp)" if closeness.are_close(got, wanted) else f"changes the bits ({ulp} ulp)"


def is_rounding(found: str) -> bool:
    """Whether `difference` found rounding and no more."""
    return found.startswith(ROUNDED)


def is_wrong(found: str) -> bool:
    """Whether `difference` found more than rounding."""
    return bool(found) and not is_rounding(found)


def as_words(found: str) -> str:
    """What `difference` found, as the end of a sentence."""
    return f"is {found}" if is_rounding(found) else found or "gives the same bits"
