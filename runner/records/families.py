"""Reads the settings of many runs, most of which differ in their seed alone: the rest is read once, and shared."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from runner.records.codec import loads

NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,17}")
# Settings of which few differ in their seed alone are not kept for ever.
MAX_FAMILIES = 256


@dataclass(frozen=True, eq=False)
class _Family:
    """Settings that differ in their seed: the text before and after its number, and their values with another seed."""

    before: bytes
    after: bytes
    values: dict[str, Any]
    # The last family whose settings followed: the configs of a sweep take turns.
    following: list[_Family] = field(default_factory=list)


class Families:
    """Reads settings.

    A line break is in no text of JSON, so what is found at a line's beginning is no part of one; and a text of which
    valid parts are replaced by a word is valid if and only if the whole text is.

    Args:
      indent: The spaces before `}` at their end, as `data_to_json` writes them.

    Attributes:
      word: To stand in a text for settings that were read: no text can foresee it.
    """

    def __init__(self, indent: int) -> None:
        self.word = secrets.token_hex(8)
        self._other_seed = secrets.randbits(59) | 1 << 59  # as much
        self._end = b"\n" + b" " * indent + b"}"
        self._seed = re.compile(rb'\n%s"seed": (%s)(?=[,\n])' % (b" " * (indent + 1), NUMBER.pattern))
        self._families: dict[tuple[bytes, bytes], _Family] = {}
        self._last: _Family | None = None

    def read(self, text: bytes, opened: int) -> tuple[dict[str, Any], int]:
        """The settings that begin at a place of a text, and where they end.

        Raises:
          ValueError: They are of another form than ours.
        """
        for likely in self._last.following if self._last else ():
            if text.startswith(likely.before, opened):
                seed = NUMBER.match(text, opened + len(likely.before))
                if seed is not None and text.startswith(likely.after, seed.end()):
                    self._last = likely
                    return likely.values | {"seed": int(seed[0])}, seed.end() + len(likely.after)
        end = text.index(self._end, opened) + len(self._end)
        seed = self._seed.search(text, opened, end)
        if seed is None:
            return loads(text[opened:end]), end
        family = self._family(text[opened : seed.start(1)], text[seed.end(1) : end])
        if self._last is not None:
            self._last.following[:] = [family]
        self._last = family
        return family.values | {"seed": int(seed[1])}, end

    def _family(self, before: bytes, after: bytes) -> _Family:
        if (before, after) not in self._families:
            if len(self._families) == MAX_FAMILIES:
                self._families.clear()
            values = loads(str(self._other_seed).encode().join((before, after)))
            if values["seed"] != self._other_seed:
                raise ValueError("another seed is the one that counts")
            self._families[before, after] = _Family(before, after, values)
        return self._families[before, after]
