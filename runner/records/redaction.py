"""Redacts values that a run's config took from the environment, wherever its record has them."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, TypeVar

from runner.config.env_secrets import Redaction
from runner.records.record import Head, Record

R = TypeVar("R", Record, Head)

# Numbers, and the paths of variables, which the sweep has checked: a checkpoint names its files by them.
KEPT = ("variables", "updated", "timing")


def redacted(record: R, redaction: Redaction) -> R:
    """Returns a record, or the head of one, with the values redacted in all texts."""
    if not redaction.values:
        return record
    texts = {
        item.name: _redacted(getattr(record, item.name), redaction)
        for item in dataclasses.fields(record)
        if item.name not in KEPT
    }
    return dataclasses.replace(record, **texts | {"settings": redaction.settings(record.settings)})


def _redacted(value: Any, redaction: Redaction) -> Any:
    if isinstance(value, enum.Enum):
        return value
    if isinstance(value, str):
        return redaction.text(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{item.name: _redacted(getattr(value, item.name), redaction) for item in dataclasses.fields(value)}
        )
    if isinstance(value, dict):
        return {_redacted(key, redaction): _redacted(item, redaction) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_redacted(item, redaction) for item in value)
    return value
