"""Configs as JSON data with dotted keys: what reads records alone needs no settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def varied_keys(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted config keys whose value differs among `runs`, in config order."""
    flat = [flatten(run) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    return [key for key in keys if any(one.get(key, keys) != flat[0].get(key, keys) for one in flat)]


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`data` with dotted keys; lists are kept as values."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):  # not Mapping: its isinstance takes ten times as long
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
