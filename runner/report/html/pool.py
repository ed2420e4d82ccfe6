"""JSON data for the page: numbers rounded to the digits shown, and a pool of values that runs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

# A report is for viewing; the records have all digits.
DIGITS = 7


class Pool:
    """Values that runs share, each stored once.

    Attributes:
      values: JSON data, by index.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Hashable, int] = {}
        self._lists: dict[Hashable, list[int]] = {}

    def place(self, key: Hashable, make: Callable[[], Any] | None = None) -> int:
        """The index of the value for `key`, by default `key` itself; a new one is made by `make`."""
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(make() if make else key)
        return self._places[key]

    def places(self, key: Hashable, make: Callable[[], list[int]]) -> list[int]:
        """The list of indices for `key`; a new one is made by `make`."""
        if key not in self._lists:
            self._lists[key] = make()
        return self._lists[key]


def number(value: Any) -> Any:
    """`value` rounded to the digits shown; None if JSON can't represent it."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
