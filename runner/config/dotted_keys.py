"""Configs as JSON data with dotted keys: what reads records alone needs no settings."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any


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


def exact(value: Any) -> Hashable:
    """A key that JSON data have in common if they are the same, types included; faster than `repr`."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError):  # what is no JSON
        return repr(value)
