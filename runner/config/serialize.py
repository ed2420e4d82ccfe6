"""Converts a `Run` to JSON data and back."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runner.config.dotted_keys import flatten
from runner.config.enums import (
    CheckpointWriter,
    ChecksDepth,
    ChecksMode,
    DistributedMode,
    EagerCheck,
    InputKind,
    Mode,
    OnFailure,
    Retry,
    RuleMatch,
    TimingMode,
    TrackingMode,
)
from runner.config.settings.execution import ChecksSettings, DistributedSettings, TimingSettings, TrackingSettings
from runner.config.settings.layer import HostSettings, InputSettings, LayerSettings
from runner.config.settings.pipeline import PipelineSettings
from runner.config.settings.rules import RulesSettings
from runner.config.settings.run import Run
from runner.config.settings.sweep import FailureSettings, GridSettings, MeshSettings, ProcessSettings, SearchSettings
from runner.config.settings.train import CheckpointSettings, TrainSettings
from runner.errors import ConfigError, literal, nearest, typed

# What to type if a key is unknown and not close to a known one.
ALL_KEYS = "bridge-runner --cfg job"


# Names that a key has in other places, which its last part doesn't tell.
ALSO_CALLED = {
    "on_failure": "failure.action",
    "max_failures": "failure.max",
    "mesh_input": "mesh.input",
    "mesh_rules": "mesh.rules",
}

# Values in files of earlier versions, by group and key, and those in their place.
FORMER = {("checkpoint", "writer", "fast"): "orbax"}


class ForeignValueError(ConfigError):
    """A value in a saved config that this program does not write there."""


def to_data(run: Run) -> dict[str, Any]:
    """`run` as JSON data: enums by value, the same keys as the config."""
    # Not asdict, which copies everything again: this is called several times per run.
    return json.loads(json.dumps(vars(run), default=lambda one: one.value if isinstance(one, enum.Enum) else vars(one)))


def defaults() -> dict[str, Any]:
    """Every config key, dotted, with its default value."""
    return flatten(to_data(Run()) | {"search": vars(SearchSettings())})


def from_data(data: Mapping[str, Any]) -> Run:
    """The inverse of `to_data`.

    Raises:
      ConfigError: An unknown key, or an invalid value.
    """
    groups = {item.name: item.default_factory for item in dataclasses.fields(Run)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in groups:
            close = meant(key, groups)
            raise ConfigError(key, value, "no such key", typed(close, literal(value)) if close else ALL_KEYS)
        is_group = key in _group_types() and isinstance(value, Mapping)
        values[key] = _group(key, value) if is_group else _typed("", key, value)
    with _of_our_form("settings", data):
        return Run(**values)


# How alike a key without a dot has to be: short words are often half alike.
CLOSE = 0.7


def meant(key: str, known: Iterable[str]) -> str | None:
    """The key meant by an unknown one: the only one whose last part it is, or the nearest of `known`.

    Without a dot in it, it is like a key without one or like a last part: `kernel` is not near `layer.name`.
    """
    ends = [name for name in defaults() if name.endswith(f".{key}")]
    if one := ALSO_CALLED.get(key) or (ends[0] if len(ends) == 1 else None):
        return one
    if "." in key:
        return nearest(key, known)
    tops = [name for name in known if "." not in name]
    lasts = {name.rpartition(".")[2]: name for name in known if "." in name}
    close = nearest(key, lasts, cutoff=CLOSE)
    return nearest(key, tops, cutoff=CLOSE) or (lasts[close] if close else None)


def canonical_digest(data: Any) -> str:
    """SHA-256 of `data` as canonical JSON: sorted keys, no spaces, stable across machines."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _group_types() -> dict[str, type]:
    return {
        "layer": LayerSettings,
        "host": HostSettings,
        "pipeline": PipelineSettings,
        "train": TrainSettings,
        "input": InputSettings,
        "timing": TimingSettings,
        "checks": ChecksSettings,
        "rules": RulesSettings,
        "checkpoint": CheckpointSettings,
        "tracking": TrackingSettings,
        "distributed": DistributedSettings,
        "mesh": MeshSettings,
        "grid": GridSettings,
        "failure": FailureSettings,
        "process": ProcessSettings,
    }


@functools.cache
def _enum_fields() -> dict[tuple[str, str], type[enum.Enum]]:
    return {
        ("failure", "action"): OnFailure,
        ("failure", "retry"): Retry,
        ("input", "kind"): InputKind,
        ("timing", "mode"): TimingMode,
        ("checks", "mode"): ChecksMode,
        ("checks", "depth"): ChecksDepth,
        ("checks", "eager"): EagerCheck,
        ("rules", "match"): RuleMatch,
        ("checkpoint", "writer"): CheckpointWriter,
        ("checkpoint", "mode"): Mode,
        ("tracking", "mode"): TrackingMode,
        ("distributed", "mode"): DistributedMode,
    }


def _group(key: str, value: Mapping[str, Any]) -> Any:
    group = _group_types()[key]
    known = [item.name for item in dataclasses.fields(group)]
    values = {}
    for name, item in value.items():
        if name not in known:
            close = nearest(name, known)
            suggestion = f"{key}.{close}={literal(item)}" if close else ALL_KEYS
            raise ConfigError(f"{key}.{name}", item, "no such key", suggestion)
        values[name] = _typed(key, name, item)
    with _of_our_form(key, value):
        return group(**values)


def _typed(group: str, name: str, value: Any) -> Any:
    kind = _enum_fields().get((group, name))
    if kind is None:
        return value
    value = FORMER.get((group, name, str(value)), value)
    # Hydra has an enum's name, a record its value.
    by_name = kind.__members__.get(str(value))
    with _of_our_form(f"{group}.{name}".lstrip("."), value):
        return by_name if by_name is not None else kind(value)


@contextlib.contextmanager
def _of_our_form(key: str, value: object) -> Iterator[None]:
    """Says of what a stranger wrote that it is no value of the key."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        got = value if isinstance(value, (str, int, float)) else type(value).__name__
        raise ForeignValueError(key, got, "no value that this program writes") from error
