"""Converts a record to flat dashboard values: summary, history, config. Pure; the trackers log them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from runner.errors import literal
from runner.records.record import Head, Record, Status
from runner.records.timing import Phases

MAX_MESSAGE_CHARACTERS = 2000

# Maximum number of parts in a flattened key, as in W&B's table of runs: `layer.kwargs.block.dtype`.
MAX_KEY_PARTS = 4

TRAIN = "train"
SWEEP = "sweep"
NORM = "output/norm"
LOSS = f"{TRAIN}/loss"
APPLY_S = "timing/apply_latency/median_s"

# The x axis of each metric in a run's history.
AXES = {NORM: "seed", APPLY_S: "features", LOSS: f"{TRAIN}/step"}

# Overrides that do not affect the program.
NOT_PROGRAM = re.compile(r"\+?(seed|sweep|output_root|tracking)\b")

RECORD_KEYS = ("run_id", "result_id", "num", "started_at", "wall_s", "num_params", "variables_bytes")
ARRAY_KEYS = ("mean", "std", "min", "max", "num_non_finite", "digest")
MEASUREMENTS = ("init_latency", "apply_dispatch", "apply_latency", "apply_throughput")

# Columns of the results table that a sweep's charts use.
SWEEP_COLUMNS = ("num", "seed", "features", "num_params", "output_norm", "apply_latency_median_s", "loss_last")
CHARTS = (
    ("features", "apply_latency_median_s", "apply time against features"),
    ("num_params", "apply_latency_median_s", "apply time against the number of params"),
    ("seed", "output_norm", "output norm by seed"),
    ("seed", "loss_last", "last loss by seed"),
)


def config_of(record: Record | Head) -> dict[str, Any]:
    """The settings, the overrides, and `program`: the overrides except the seed, to group a program's seeds by.

    Anything nested deeper than `MAX_KEY_PARTS` keys becomes one value, written as on the command line.
    """
    typed = [text for text in record.overrides if not NOT_PROGRAM.match(text)]
    settings = {key: _cut(value, MAX_KEY_PARTS - 1) for key, value in record.settings.items()}
    return settings | {"overrides": " ".join(record.overrides), "program": " ".join(typed) or record.layer}


def summary_of(record: Record) -> dict[str, Any]:
    """`record` as flat values: numbers and their context. None values are omitted."""
    values = {key: getattr(record, key) for key in RECORD_KEYS}
    values |= {key: record.fingerprint.get(key) for key in ("software_id", "machine_id")}
    values |= {"status": record.status.value, NORM: record.output_norm}
    values |= {f"check/{check.name}": check.verdict.value for check in record.checks}
    for array in record.output:
        prefix = output_key(array.path, len(record.output))
        values |= {f"{prefix}/{key}": getattr(array, key) for key in ARRAY_KEYS}
    for item in dataclasses.fields(record.timing) if record.timing else ():
        value = getattr(record.timing, item.name)
        if isinstance(value, Phases):
            values |= _prefixed(item.name, value)
        elif item.name in MEASUREMENTS and value is not None:
            flags = ", ".join(value.summary.flags)
            values |= _prefixed(f"timing/{item.name}", value.summary) | {f"timing/{item.name}/flags": flags}
        else:
            values[item.name] = value
    if record.train:
        train = record.train
        values |= _prefixed(f"{TRAIN}_step", train.step) | {f"{TRAIN}/not_moved": ", ".join(train.not_moved)}
        values |= {f"{TRAIN}/first_loss": train.losses[0], f"{TRAIN}/last_loss": train.losses[-1]}
    if record.checkpoint:
        values |= _prefixed("checkpoint", record.checkpoint)
    if record.error:
        message = record.error.message[:MAX_MESSAGE_CHARACTERS]
        values |= {"error/kind": record.error.kind.value, "error/type": record.error.type, "error/message": message}
    return {key: cell(value) for key, value in values.items() if value is not None}


def loss_rows(losses: Sequence[float], first_step: int) -> Iterator[dict[str, Any]]:
    """The loss curve, or the part of it from `first_step` on, as history: one row per step."""
    for num, loss in enumerate(losses, start=first_step):
        yield {f"{TRAIN}/step": num, LOSS: cell(loss)}


def history_of(record: Record) -> dict[str, Any]:
    """The numbers of `record` that charts plot, with their x axes: one row per run."""
    latency = record.timing.apply_latency if record.timing else None
    values = {key: record.settings.get(key) for key in ("seed", "features")}
    values |= {NORM: record.output_norm, APPLY_S: latency.summary.median_s if latency else None}
    return {key: cell(value) for key, value in values.items() if value is not None}


def axes_of(record: Record) -> dict[str, str]:
    """The x axis of each metric in the history of `record`."""
    there = history_of(record).keys() | (next(loss_rows([0.0], 0)).keys() if record.train else set())
    return {number: axis for number, axis in AXES.items() if {number, axis} <= there}


def sweep_summary(rows: Sequence[Mapping[str, Any]], digest: str | None = None) -> dict[str, Any]:
    """Number of `rows` in the results table and of failed ones; `digest` identifies the table."""
    num_failed = sum(row.get("status") == Status.failed.value for row in rows)
    values = {"num_runs": len(rows), "num_failed": num_failed, "results_digest": digest}
    return {key: value for key, value in values.items() if value is not None}


def sweep_history(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The numbers of a sweep that charts plot: one row per run."""
    for row in rows:
        values = {f"{SWEEP}/{key}": row.get(key) for key in SWEEP_COLUMNS}
        yield {key: cell(value) for key, value in values.items() if value is not None}


def sweep_charts(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, list[list[Any]]]]:
    """x, y, title and points `[x, y, layer]` of each chart with more than one x value."""
    for x, y, title in CHARTS:
        points = [[row[x], row[y], row.get("layer")] for row in rows if row.get(x) is not None and _finite(row.get(y))]
        if len({point[0] for point in points}) > 1:
            yield x, y, title, points


def histogram_of(array: np.ndarray, num_bins: int = 64) -> tuple[np.ndarray, np.ndarray] | None:
    """Counts and bin edges of the finite values of `array` (complex: magnitudes); None if there are none."""
    values = finite_values(array)
    if values.size == 0:
        return None
    with np.errstate(all="ignore"):
        try:
            return np.histogram(values, bins=num_bins)
        except ValueError:
            # The range can't hold this many bins, e.g. if all values are 1e20, or the range is infinite.
            return np.array([values.size]), np.array([values.min(), values.max()])


def finite_values(array: np.ndarray) -> np.ndarray:
    """The finite values of `array` (complex: magnitudes) as float64, shape [n]."""
    with np.errstate(all="ignore"):
        values = (np.abs(array) if np.iscomplexobj(array) else array).astype(np.float64).ravel()
        return values[np.isfinite(values)]


def output_key(path: str, num_arrays: int) -> str:
    """The key of an output array."""
    # A single array, the usual case, has the same keys whatever its name: runs are compared by key.
    return f"output/{path}" if num_arrays > 1 else "output"


def cell(value: Any) -> Any:
    """`value` as a JSON scalar: None, a bool, a number or text; NaN and infinities by name."""
    if isinstance(value, np.generic) and not np.iscomplexobj(value):
        value = bool(value) if value.dtype == bool else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        # Spelled as in W&B: its JSON has no alternative, and a bare NaN in a summary becomes null.
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, (bool, int, float, str)) else literal(value)


def _prefixed(prefix: str, item: Any) -> dict[str, Any]:
    return {f"{prefix}/{key}": value for key, value in dataclasses.asdict(item).items()}


def _cut(value: Any, depth: int) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _cut(item, depth - 1) for key, item in value.items()} if depth else literal(value)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
