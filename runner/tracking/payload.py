"""Converts a record to flat dashboard values: summary, history, config. Pure; the trackers log them."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from runner.config import serialize
from runner.config.settings.run import Run
from runner.errors import literal
from runner.records.record import Head, Record, Status, Verdict

MAX_MESSAGE_CHARACTERS = 2000

# Maximum number of parts in a flattened key, as in W&B's table of runs: `layer.kwargs.block.dtype`.
MAX_KEY_PARTS = 4

TRAIN = "train"
SWEEP = "sweep"
NORM = "output/norm"
LOSS = f"{TRAIN}/loss"
APPLY_MS = "apply_ms"

# The x axis of each metric in a run's history.
AXES = {NORM: "seed", APPLY_MS: "features", LOSS: f"{TRAIN}/step"}

# Overrides that do not affect the program.
NOT_PROGRAM = re.compile(r"\+?(seed|sweep|output_root|tracking)\b")

# Settings of a run that its config always has, and those that say nothing about it.
ALWAYS = ("seed", "input_shape", "features", "device", "layer.name")
NEVER = ("sweep", "output_root", "tracking", "process", "failure", "grid")

RECORD_KEYS = ("run_id", "started_at", "wall_s", "num_params", "variables_bytes")

# The worst first.
VERDICTS = (Verdict.fail, Verdict.warn, Verdict.passed, Verdict.skipped)

# Columns of the results table that a sweep's charts use.
SWEEP_COLUMNS = ("num", "seed", "features", "num_params", "output_norm", "apply_latency_median_s", "loss_last")
CHARTS = (
    ("features", "apply_latency_median_s", "apply time against features"),
    ("num_params", "apply_latency_median_s", "apply time against the number of params"),
    ("seed", "output_norm", "output norm by seed"),
    ("seed", "loss_last", "last loss by seed"),
)


def config_of(record: Record | Head) -> dict[str, Any]:
    """What distinguishes the run: the axes, and all settings that were typed or differ from the defaults.

    With `overrides`, as typed, and `program`: those of them without the seed, to group a program's seeds by. Anything
    nested deeper than `MAX_KEY_PARTS` keys becomes one value, written as on the command line.
    """
    typed = [text for text in record.overrides if not NOT_PROGRAM.match(text)]
    keys = {text.partition("=")[0].lstrip("+") for text in record.overrides} | set(ALWAYS)
    shown = {key: value for key, value in record.settings.items() if key not in NEVER}
    known = _defaults() | ({"train": {}} if shown.get("train", {}).get("steps") else {})
    settings = {key: _cut(value, MAX_KEY_PARTS - 1) for key, value in _changed(shown, known, keys).items()}
    return settings | {"overrides": " ".join(record.overrides), "program": " ".join(typed) or record.layer}


def summary_of(record: Record) -> dict[str, Any]:
    """What a person looks at first, flat and under 25 names; all else is in the record. None values are omitted."""
    timing, train = record.timing, record.train
    values: dict[str, Any] = {"status": record.status.value, "checks": verdicts_of(record)}
    if record.error:
        values["error"] = f"{record.error.kind.value}: {record.error.type}: {record.error.message}"
        values["error"] = values["error"][:MAX_MESSAGE_CHARACTERS]
    if train:
        values |= {"loss_first": train.losses[0], "loss_last": train.losses[-1], "num_steps": len(train.losses)}
    if timing:
        for key, measured in ((APPLY_MS, timing.apply_latency), ("init_ms", timing.init_latency)):
            values[key] = measured.summary.median_s * 1e3 if measured else None
        values["apply_flags"] = ", ".join(timing.apply_latency.summary.flags) if timing.apply_latency else None
        values["compile_s"] = sum(
            phases.trace_s + phases.lower_s + phases.compile_s for phases in (timing.init, timing.apply)
        )
    values[NORM] = record.output_norm
    for array in record.output:
        prefix = output_key(array.path, len(record.output))
        values |= {f"{prefix}/mean": array.mean, f"{prefix}/std": array.std, f"{prefix}/digest": array.digest}
        values[f"{prefix}/num_non_finite"] = array.num_non_finite or None
    values |= {key: getattr(record, key) for key in RECORD_KEYS}
    return {key: cell(value) for key, value in values.items() if value is not None}


def verdicts_of(record: Record) -> str | None:
    """`1 fail (pure), 1 warn (lifts), 11 pass`: how many checks ended how, and which did not pass; None without any."""
    found = {verdict: [check.name for check in record.checks if check.verdict is verdict] for verdict in VERDICTS}
    shown = []
    for verdict, names in found.items():
        which = f" ({', '.join(names)})" if verdict in (Verdict.fail, Verdict.warn) else ""
        shown += [f"{len(names)} {verdict.value}{which}"] if names else []
    return ", ".join(shown) or None


def sentence_of(run: Record | Head) -> str:
    """What was run and, of a run that has ended, what it gave."""
    sizes = [f"{key} {literal(run.settings[key])}" for key in ("seed", "features") if run.settings.get(key) is not None]
    what = " ".join([run.layer, *([f"in {run.host}"] if run.host else [])])
    subject = f"{', '.join([what, *sizes])} on {run.platform}"
    if isinstance(run, Head):
        return subject
    ended = f"{run.status.value} after {run.wall_s:.3g} s"
    losses = run.train.losses if run.train else None
    gave = [f"loss {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps"] if losses else []
    gave += [f"checks {verdicts}"] if (verdicts := verdicts_of(run)) else []
    gave += [run.error.kind.value] if run.error else []
    return "; ".join([f"{subject}: {ended}", *gave])


def loss_rows(losses: Sequence[float], first_step: int) -> Iterator[dict[str, Any]]:
    """The loss curve, or the part of it from `first_step` on, as history: one row per step."""
    for num, loss in enumerate(losses, start=first_step):
        yield {f"{TRAIN}/step": num, LOSS: cell(loss)}


def history_of(record: Record) -> dict[str, Any]:
    """The numbers of `record` that charts plot, with their x axes: one row per run."""
    values = {key: record.settings.get(key) for key in ("seed", "features")}
    values |= {key: value for key, value in summary_of(record).items() if key in (NORM, APPLY_MS)}
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


def _cut(value: Any, depth: int) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _cut(item, depth - 1) for key, item in value.items()} if depth else literal(value)


@functools.cache
def _defaults() -> dict[str, Any]:
    return serialize.to_data(Run())


def _changed(settings: Mapping[str, Any], known: Mapping[str, Any], keys: Set[str], prefix: str = "") -> dict[str, Any]:
    """Those of `settings` that are in `keys`, by dotted name, or whose value is not the one in `known`."""
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        default = known.get(key, ...)
        if isinstance(value, dict) and isinstance(default, dict):
            if inner := _changed(value, default, keys, f"{prefix}{key}."):
                kept[key] = inner
        elif value != default or f"{prefix}{key}" in keys:
            kept[key] = value
    return kept


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
