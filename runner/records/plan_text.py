"""Reads the text of a plan, in which most runs differ in their seed alone: the rest of their settings is read once."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from runner.records.codec import SMALL_BYTES, loads

# The settings of a run as `data_to_json` indents them; a line break is in no text of JSON, so these are no part of one.
START = b'\n   "settings": {'
END = b"\n   }"
SEED = re.compile(rb'\n    "seed": (0|-?[1-9][0-9]{0,17})(?=[,\n])')
NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,17}")


def loads_plan(text: bytes) -> Any:
    """`codec.loads`, faster for the plan of many runs: they share the values of settings that are the same.

    Raises:
      ValueError: It is no JSON.
    """
    if len(text) >= SMALL_BYTES:
        try:
            return _assembled(text)
        except (ValueError, LookupError, TypeError):  # of another form than ours, or no JSON
            pass
    return loads(text)


def _assembled(text: bytes) -> Any:
    """The plan without the settings of its runs, and these put back.

    A text of which valid parts are replaced by a word is valid if and only if the whole text is. That the word, which
    no text can foresee, is found in each run once says that nothing else was replaced.
    """
    word, reader = secrets.token_hex(8), _Settings(text)
    kept, settings, position = [], [], 0
    while (found := text.find(START, position)) >= 0:
        opened = found + len(START) - 1
        kept.append(text[position:opened])
        values, position = reader.read(opened)
        settings.append(values)
    kept.append(text[position:])
    plan = loads(f'"{word}"'.encode().join(kept))
    runs = plan["runs"]
    if len(runs) != len(settings) or any(run["settings"] != word for run in runs):
        raise ValueError("it is of another form")
    for run, values in zip(runs, settings, strict=True):
        run["settings"] = values
    return plan


@dataclass(frozen=True, eq=False)
class _Family:
    """Settings that differ in their seed: the text before and after its number, and their values with another seed."""

    before: bytes
    after: bytes
    values: dict[str, Any]
    # The last family whose settings followed: the configs of a sweep take turns.
    following: list[_Family] = field(default_factory=list)


class _Settings:
    """Reads the settings of runs out of a text."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._other_seed = secrets.randbits(60) | 1 << 59  # which no text can foresee
        self._families: dict[tuple[bytes, bytes], _Family] = {}
        self._last: _Family | None = None

    def read(self, opened: int) -> tuple[dict[str, Any], int]:
        """The settings that begin at a place of the text, and where they end.

        Raises:
          ValueError: They are of another form than ours.
        """
        for likely in self._last.following if self._last else ():
            if self._text.startswith(likely.before, opened):
                seed = NUMBER.match(self._text, opened + len(likely.before))
                if seed is not None and self._text.startswith(likely.after, seed.end()):
                    self._last = likely
                    return likely.values | {"seed": int(seed[0])}, seed.end() + len(likely.after)
        end = self._text.index(END, opened) + len(END)
        seed = SEED.search(self._text, opened, end)
        if seed is None:
            return loads(self._text[opened:end]), end
        family = self._family(self._text[opened : seed.start(1)], self._text[seed.end(1) : end])
        if self._last is not None:
            self._last.following[:] = [family]
        self._last = family
        return family.values | {"seed": int(seed[1])}, end

    def _family(self, before: bytes, after: bytes) -> _Family:
        if (before, after) not in self._families:
            values = loads(str(self._other_seed).encode().join((before, after)))
            if values["seed"] != self._other_seed:
                raise ValueError("another seed is the one that counts")
            self._families[before, after] = _Family(before, after, values)
        return self._families[before, after]
