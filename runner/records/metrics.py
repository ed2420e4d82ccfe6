"""Looks up a record's numbers by results.parquet column or record.json path, to rank runs by."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.config.enums import CheckpointWriter, TimingMode
from runner.config.settings.run import Run
from runner.errors import ConfigError
from runner.records.columns import COLUMNS
from runner.records.record import Record

# How many similar names an error suggests; where none is close, these.
MAX_NEAREST = 3
COMMON = ["loss_last", "apply_latency_median_s", "num_params"]

# Stands for any list index.
ANY = "N"

# A list index, in Python's and in W&B's notation.
INDEX = r"(?:\[|\.(?=-?\d))(-?\d+)(?:\]|(?=[.\[]|$))"

# The part of a path that may be left out, in our notation or W&B's: `timing/apply_latency/median_s`.
SUMMARY = ".summary."

# A function's time means one blocking call.
HEADLINES = {"timing.apply.": "timing.apply_latency.summary.", "timing.init.": "timing.init_latency.summary."}

STEADY = r"(init|apply)_(latency|dispatch|throughput)|^timing\.(init|apply)\.(median|min|max|mean|std|quartile|mad)"
TRAINED = r"^(train|loss)"
SAVED = r"(^|\.)checkpoint"


@dataclass(frozen=True)
class Metric:
    """A numeric value of a record.

    Attributes:
      name: As typed.
      key: The config key that it was typed for.
    """

    name: str
    key: str

    def of(self, record: Record) -> float | None:
        """Returns its value; None if the record has none."""
        path = _names()[_general(self.name)]
        if path is None:
            value = COLUMNS[self.name].value(record)
        else:
            places = iter(re.findall(INDEX, self.name))
            value = _follow(record, [next(places) if part == ANY else part for part in path.split(".")])
        return None if value is None else float(value)

    def require(self, run: Run) -> None:
        """Checks that records of runs such as `run` can have this metric.

        Raises:
          ConfigError: They never have it, whatever the outcome.
        """
        if run.timing.mode is TimingMode.off and re.search(STEADY, self.name):
            raise ConfigError(self.key, self.name, "with timing=off no run has it", "timing=quick")
        if not run.train.steps and re.search(TRAINED, self.name):
            raise ConfigError(self.key, self.name, "without training no run has it", "train=short")
        if run.checkpoint.writer is CheckpointWriter.none and re.search(SAVED, self.name):
            raise ConfigError(self.key, self.name, "with checkpoint=none no run has it", "checkpoint=orbax")


def find(name: str, key: str) -> Metric:
    """Finds a metric by name: `loss_last`, `timing.apply_latency.median_s`, `train.losses[-1]` or `train.losses.-1`.

    Args:
      name: As typed.
      key: The config key that it was typed for.

    Raises:
      ConfigError: Records have no number of that name.
    """
    known = _names()
    if _general(name) in known:
        return Metric(name, key)
    spelt = [re.sub(rf"\.{ANY}\b", ".0", one) for one in known]
    near = difflib.get_close_matches(name, spelt, n=MAX_NEAREST, cutoff=0.5) or COMMON
    reason = f"no number of a record; there are {', '.join(near)} and others"
    raise ConfigError(key, name, reason, f"{key}={near[0]}")


@functools.cache
def _names() -> Mapping[str, str | None]:
    """Every name with its path in the record; None for a column."""
    names: dict[str, str | None] = {path: path for path in _numbers(Record, "")}
    names |= {path.replace(SUMMARY, "."): path for path in names if SUMMARY in path}
    for short, long in HEADLINES.items():
        names |= {path.replace(long, short): path for path in list(names) if path.startswith(long)}
    return names | {name: None for name, column in COLUMNS.items() if column.type in ("double", "int64")}


def _numbers(kind: Any, path: str) -> Iterator[str]:
    """Paths of the numbers below a type."""
    if kind in (int, float):
        yield path
    elif dataclasses.is_dataclass(kind):
        for name, hint in typing.get_type_hints(kind).items():
            yield from _numbers(hint, f"{path}.{name}" if path else name)
    elif typing.get_origin(kind) is list:
        yield from _numbers(typing.get_args(kind)[0], f"{path}.{ANY}")
    elif typing.get_origin(kind) in (types.UnionType, typing.Union) and str not in typing.get_args(kind):
        for one in typing.get_args(kind):
            yield from _numbers(one, path)


def _general(name: str) -> str:
    return re.sub(INDEX, f".{ANY}", name)


def _follow(value: Any, path: list[str]) -> Any:
    for part in path:
        if value is None:
            return None
        if isinstance(value, list):
            index = int(part)
            value = value[index] if -len(value) <= index < len(value) else None
        else:
            value = getattr(value, part)
    return value
