"""Configs as JSON data with dotted keys: what reads records alone needs no settings."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from marshal import dumps
from typing import Any

# The last form of `marshal` in which equal data are equal bytes: later ones write what an object has met before.
PLAIN = 2

# Runs of one program follow each other, or a few programs take turns.
MAX_FAMILIES = 256


def varied_keys(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted config keys whose value differs among `runs`, which have such keys, in config order."""
    keys = dict.fromkeys(key for one in runs for key in one)
    return [key for key in keys if any(one.get(key, keys) != runs[0].get(key, keys) for one in runs)]


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
    names = list(settings)
    at = names.index("seed") if "seed" in settings else len(names)
    parts = [{name: settings[name] for name in part} for part in (names[:at], names[at : at + 1], names[at + 1 :])]
    texts = [_text(parts[0]), json.dumps(parts[1]), _text(parts[2])]
    return "{" + ", ".join(inner for text in texts if (inner := text[1:-1])) + "}"


def _text(data: dict[str, Any]) -> str:
    key = dumps(data, PLAIN)
    if key not in _TEXTS:
        if len(_TEXTS) == MAX_FAMILIES:
            _TEXTS.clear()
        _TEXTS[key] = json.dumps(data)
    return _TEXTS[key]


# The JSON of data, by their bytes.
_TEXTS: dict[bytes, str] = {}


def exact(value: Any) -> Hashable:
    """A key that JSON data have in common if they are the same, types included; far faster than `json.dumps`."""
    try:
        return dumps(value, PLAIN)
    except ValueError:  # what is no JSON
        return repr(value)
