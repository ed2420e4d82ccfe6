"""Configs as JSON data with dotted keys: what reads records alone needs no settings."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from marshal import dumps
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

# The last form of `marshal` in which equal data are equal bytes: later ones write what an object has met before.
PLAIN = 2

# Runs of one program follow each other, or a few programs take turns.
MAX_FAMILIES = 256


def varied_keys(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted config keys whose value differs among `runs`, which have such keys, in config order."""
    keys = dict.fromkeys(key for names in {tuple(one): None for one in runs} for key in names)
    first = {key: runs[0].get(key, keys) for key in keys}
    return [key for key in keys if any(one.get(key, keys) != first[key] for one in runs)]


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`data` with dotted keys; lists are kept as values."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):  # not Mapping: its isinstance takes ten times as long
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def settings_text(settings: Mapping[str, Any]) -> str:
    """`json.dumps(settings)`, faster: of many runs, most differ in their seed alone, and the rest is written once."""
    before, after = apart(settings)
    if "seed" not in settings:
        return f"{{{_inner(before)}}}"
    seed = settings["seed"]
    parts = [_inner(before), f'"seed": {seed if type(seed) is int else json.dumps(seed)}', _inner(after)]
    return f"{{{', '.join(filter(None, parts))}}}"


def _inner(part: Part) -> str:
    if part.key not in _TEXTS:
        if len(_TEXTS) == MAX_FAMILIES:
            _TEXTS.clear()
        _TEXTS[part.key] = json.dumps(part.data)[1:-1]
    return _TEXTS[part.key]


# The JSON of data without its braces, by their keys.
_TEXTS: dict[Hashable, str] = {}


def exact(value: Any) -> Hashable:
    """A key that JSON data have in common if they are the same, types included; far faster than `json.dumps`."""
    try:
        return dumps(value, PLAIN)
    except ValueError:  # what is no JSON
        return repr(value)


class Part(NamedTuple):
    """A part of settings, and its `exact` key."""

    data: dict[str, Any]
    key: Hashable


def apart(settings: Mapping[str, Any]) -> tuple[Part, Part]:
    """What is before the seed in settings, and what is after it; without a seed, all is before it."""
    return _apart({**settings, "seed": None} if "seed" in settings else settings)


def shared(make: Callable[[Mapping[str, Any]], T]) -> Callable[[Mapping[str, Any]], T]:
    """`make`, called once for data whose values are the same objects, as those of many runs are; they never change."""
    known: dict[tuple[int, ...], tuple[list[str], list[Any], T]] = {}

    @functools.wraps(make)
    def known_or_made(data: Mapping[str, Any]) -> T:
        names, place = list(data), tuple(map(id, data.values()))
        found = known.get(place)
        if found is None or found[0] != names:
            if len(known) == MAX_FAMILIES:
                known.clear()
            # While the values are kept, nothing else has their ids.
            known[place] = found = names, list(data.values()), make(data)
        return found[2]

    return known_or_made


@shared
def _apart(settings: Mapping[str, Any]) -> tuple[Part, Part]:
    names = list(settings)
    at = names.index("seed") if "seed" in settings else len(names)
    before, after = ({name: settings[name] for name in part} for part in (names[:at], names[at + 1 :]))
    return Part(before, exact(before)), Part(after, exact(after))
