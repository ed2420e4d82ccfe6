"""JSON data for the page: numbers with the digits that are shown, and values that runs share, each once."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

# A report is looked at: more digits than these are in the records.
DIGITS = 7


class Pool:
    """Values that runs share, each once.

    Attributes:
      values: JSON data, by its place.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Hashable, int] = {}
        self._lists: dict[Hashable, list[int]] = {}

    def place(self, key: Hashable, make: Callable[[], Any] | None = None) -> int:
        """The place of what `key` names, by default a text that names itself; `make` gives it where it is new."""
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(make() if make else key)
        return self._places[key]

    def places(self, key: Hashable, make: Callable[[], list[int]]) -> list[int]:
        """The list of places that `key` names; `make` gives it where it is new."""
        if key not in self._lists:
            self._lists[key] = make()
        return self._lists[key]


def number(value: Any) -> Any:
    """A number with the digits that are shown; None for one that JSON has no word for."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
