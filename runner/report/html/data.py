"""What the report of a sweep shows: its records as data for the page. Pure: records in, JSON data out; no JAX.

The data is made for many runs. Every number is a column with an entry a run; what runs share (a tree of variables, what
a check said, the lines of a seed's story) stands once in a pool, and the runs hold places in it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from runner.config.serialize import flatten
from runner.errors import literal
from runner.records import seeds
from runner.records.columns import COLUMNS
from runner.records.record import Check, Record
from runner.records.row import Row, Trial
from runner.records.timing import Measurement
from runner.report import matrix, table
from runner.report.html import headline

# The columns of results.parquet that the page shows; the others are names, or are told in another way below.
TAKEN = (
    *("num", "status", "layer", "host", "device", "seed", "started_at", "wall_s"),
    *("output_norm", "num_params", "variables_bytes", "checkpoint_bytes", "train_steps", "loss_first", "loss_last"),
    *("init_trace_s", "init_lower_s", "init_compile_s", "init_first_call_s"),
    *("apply_trace_s", "apply_lower_s", "apply_compile_s", "apply_first_call_s"),
    *("cache", "compile_contended", "compiled_here", "checkpoint_s", "tracker_s"),
)

STEADY = ("apply_latency", "apply_dispatch", "apply_throughput", "init_latency")

# A report is looked at: more digits than these are in the records.
DIGITS = 7
DIGEST_LETTERS = 12

# Losses that the page carries: of one run, and of all together.
MAX_CURVE_POINTS = 200
MAX_POINTS = 200_000


class Pool:
    """Values that runs share, each once.

    Attributes:
      values: JSON data, by its place.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Hashable, int] = {}
        self._lists: dict[Hashable, list[int]] = {}

    def place(self, key: Hashable, make: Callable[[], Any] | None = None) -> int:
        """The place of what `key` names, by default a text that names itself; `make` gives it where it is new."""
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(make() if make else key)
        return self._places[key]

    def places(self, key: Hashable, make: Callable[[], list[int]]) -> list[int]:
        """The list of places that `key` names; `make` gives it where it is new."""
        if key not in self._lists:
            self._lists[key] = make()
        return self._lists[key]


class Report:
    """What a report is made of, gathered record by record: numbers and places in a pool, not the records themselves."""

    def __init__(self) -> None:
        self._pool = Pool()
        self._entries: dict[str, dict[str, Any]] = {}

    def add(self, record: Record, row: Mapping[str, Any] | None = None) -> None:
        """Takes one record, in the place of an earlier one of the same run.

        Args:
          record: The record.
          row: Its row of results.parquet, where the caller has made it.
        """
        taken = row or {name: COLUMNS[name].value(record) for name in TAKEN}
        entry = {name: _number(taken[name]) for name in TAKEN}
        entry |= {name: value(record, self._pool) for name, value in EXTRA.items()}
        self._entries[record.run_id] = entry

    def data(self, plan: Mapping[str, Any], folder: str, trials: Sequence[Trial] = ()) -> dict[str, Any]:
        """All that the page shows, as JSON data.

        Args:
          plan: The sweep's plan, as `sweep.json` has it: runs without a record are missing.
          folder: The sweep's folder, as it is to be typed.
          trials: Of a search, those that were told.

        Returns:
          `head`: what is said once, in words (`runner.report_head`). Beside it what tables and charts are made of:
          `columns` has a list with an entry a run for each of `TAKEN` and `EXTRA`, and `label`; `axes` the config keys
          that tell the runs apart, each with its list of values; `pool` what places are places in; `search` the trials
          of a search, None of a sweep that is none.
        """
        runs = sorted(plan["runs"], key=lambda run: run["num"])
        entries = [self._entries.get(run["run_id"]) or _missing(run, self._pool) for run in runs]
        columns = {name: [entry[name] for entry in entries] for name in (*TAKEN, *EXTRA)}
        columns["label"] = [f"{run['num']}-{run['run_id'][:8]}" for run in runs]
        common = set(columns["settings"][0]).intersection(*columns["settings"]) if runs else set()
        varied = [[place for place in places if place not in common] for places in columns["settings"]]
        columns["settings"] = varied
        columns["losses"] = _thinned(columns["losses"])
        axes, pool = self._axes(columns), self._pool.values
        columns |= _of_trials(runs, trials)
        return {
            "head": headline.head(plan, axes, columns, pool, trials),
            "sweep": plan["sweep"],
            "folder": folder,
            "axes": axes,
            "common": [place for place in entries[0]["settings"] if place in common] if runs else [],
            "claims": list(matrix.CLAIMS),
            "steady": list(STEADY),
            "meanings": {name: column.meaning for name, column in COLUMNS.items()},
            "flags": table.FLAG_MEANING,
            "search": _search(plan, trials),
            "columns": columns,
            "pool": pool,
        }

    def _axes(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """The config keys that tell the runs apart, each with a value a run: a number, or what is typed for it."""
        settings = [dict(self._pool.values[place] for place in places) for places in columns["settings"]]
        rows = [
            Row(num=num, run_id="", status="", layer=layer, device="", settings=values)
            for num, (layer, values) in enumerate(zip(columns["layer"], settings, strict=True))
        ]
        values = [table.values_of(row) for row in rows]
        return {key: [one.get(key) for one in values] for key in table.shown_keys(rows)}


def _of_trials(runs: Sequence[Mapping[str, Any]], trials: Sequence[Trial]) -> dict[str, list[Any]]:
    """Columns of the runs of a search: the first trial that each answered, and what that was told."""
    first = {trial.run_id: trial for trial in sorted(trials, key=lambda trial: -trial.number)}
    answered = [first.get(run["run_id"]) for run in runs]
    if not trials:
        return {}
    return {
        "trial": [trial and trial.number for trial in answered],
        "objective": [trial and _number(trial.value) for trial in answered],
    }


def _search(plan: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, Any] | None:
    """What a search was for, and its trials: number, what was told, the place of the run, what was asked for, error."""
    study = plan.get("study")
    if study is None:
        return None
    places = {run["run_id"]: place for place, run in enumerate(sorted(plan["runs"], key=lambda run: run["num"]))}
    told = [
        [trial.number, _number(trial.value), places.get(trial.run_id or ""), " ".join(trial.overrides), trial.error]
        for trial in sorted(trials, key=lambda trial: trial.number)
    ]
    return {"objective": study["objective"], "direction": study["direction"], "trials": told}


def _settings(record: Record, pool: Pool) -> list[int]:
    return _pairs(record.settings, pool)


def _pairs(settings: Mapping[str, Any], pool: Pool) -> list[int]:
    """Every setting as a pair of its dotted key and a number or what is typed for it."""
    # A group is the same in most runs, and its repr is quicker to look up than its settings one by one.
    groups = [
        pool.places((name, type(value), repr(value)), functools.partial(_group, name, value, pool))
        for name, value in settings.items()
    ]
    return [place for group in groups for place in group]


def _group(name: str, value: Any, pool: Pool) -> list[int]:
    pairs = [(key, _typed(one)) for key, one in flatten({name: value}).items()]
    return [pool.place((key, type(one), one), functools.partial(list, (key, one))) for key, one in pairs]


def _typed(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if number else literal(value)


def _program_key(record: Record) -> Hashable:
    """Names what runs of one program share; one that ended early has less of it."""
    return record.program_id, len(record.streams), len(record.variables)


def _program(record: Record, pool: Pool) -> int:
    """What runs of one program share: rng streams, mutable collections, and a line for each leaf."""
    return pool.place(("program", _program_key(record)), lambda: _described(record))


def _described(record: Record) -> dict[str, Any]:
    layer = seeds.layer_path(_as_story(record))
    leaves = [
        [
            leaf.name,
            seeds.nnx_path(leaf.path, layer),
            f"{leaf.dtype}{literal(leaf.shape)}",
            leaf.num_bytes,
            f"{literal(leaf.names)} {leaf.box}" if leaf.box else "",
        ]
        for leaf in record.variables
    ]
    return {"streams": record.streams, "mutable": record.mutable, "leaves": leaves}


def _story(record: Record, pool: Pool) -> list[int]:
    """The lines of the seed's story."""
    draws = pool.places(
        ("draws", _program_key(record)), lambda: [pool.place(line) for line in seeds.draws(_as_story(record))]
    )
    return [pool.place(seeds.root(record.settings["seed"])), *draws]


def _as_story(record: Record) -> dict[str, Any]:
    """What `runner.seeds` reads of a record."""
    paths = [{"path": leaf.path} for leaf in record.variables]
    return {"settings": record.settings, "streams": record.streams, "variables": paths}


def _outputs(record: Record, pool: Pool) -> list[list[Any]]:
    """An entry an array: its kind, norm, mean, std, min, max, number of values that are not finite, digest."""
    return [
        [
            pool.place(f"{array.path or 'y'} {array.dtype}{literal(array.shape)}"),
            *(_number(number) for number in (array.norm, array.mean, array.std, array.min, array.max)),
            array.num_non_finite,
            array.digest[:DIGEST_LETTERS],
        ]
        for array in record.output
    ]


def _steady(record: Record, pool: Pool) -> list[list[Any] | None]:
    """An entry for each of `STEADY`: median, ends of its interval, number of samples, flags; None where not taken."""
    measured = [getattr(record.timing, name) if record.timing else None for name in STEADY]
    return [_measured(one, pool) if one is not None else None for one in measured]


def _measured(measurement: Measurement, pool: Pool) -> list[Any]:
    summary = measurement.summary
    numbers = (summary.median_s, summary.median_low_s, summary.median_high_s)
    flags = pool.place(("flags", *summary.flags), lambda: summary.flags)
    return [*(_number(number) for number in numbers), summary.num_samples, flags]


def _checks(record: Record, pool: Pool) -> list[int]:
    """An entry a check: name, verdict, detail, what mends it, evidence as text."""
    return [
        pool.place(
            ("check", check.name, check.verdict, check.detail, check.mend, repr(check.evidence)),
            functools.partial(_check, check),
        )
        for check in record.checks
    ]


def _check(check: Check) -> list[Any]:
    evidence = json.dumps(check.evidence, indent=1, default=str) if check.evidence else ""
    return [check.name, check.verdict.value, check.detail, check.mend, evidence]


def _twins(record: Record, pool: Pool) -> int | None:
    """What the parity claim measured side by side: seconds a phase of each variant, and ratios with their intervals."""
    evidence = next((check.evidence for check in record.checks if check.name == "parity"), {})
    if "costs" not in evidence:
        return None
    return pool.place(("twins", repr(evidence)), lambda: _side_by_side(evidence))


def _side_by_side(evidence: Mapping[str, Any]) -> dict[str, Any]:
    phases = ("trace_s", "lower_s", "compile_s", "steady_s")
    costs = {
        name: [*(_number(cost[phase]) for phase in phases), cost["flags"]] for name, cost in evidence["costs"].items()
    }
    ratios = {
        name: [*(_number(ratio[key]) for key in ("median", "low", "high")), ratio["flags"]]
        for name, ratio in evidence["steady_ratio"].items()
    }
    return {"costs": costs, "ratios": ratios, "linen": evidence["linen"]["layer"]}


def _losses(record: Record, pool: Pool) -> list[float | None]:
    return [_number(loss) for loss in record.train.losses] if record.train else []


def _training(record: Record, pool: Pool) -> int | None:
    """Where a run's training began, what it left, and the phases of a step."""
    train = record.train
    if train is None:
        return None
    step = train.step
    phases = {"trace": step.trace_s, "lower": step.lower_s, "compile": step.compile_s, "first call": step.first_call_s}
    found = {
        "first": train.first_step,
        "not_moved": train.not_moved,
        "contended": step.contended,
        "phases": {name: _number(seconds) for name, seconds in phases.items()},
    }
    return pool.place(("training", repr(found)), lambda: found)


def _error(record: Record, pool: Pool) -> int | None:
    error = record.error
    if error is None:
        return None
    parts = (error.kind.value, error.type, error.message, error.traceback)
    return pool.place(("error", *parts), lambda: list(parts))


# What the page shows of a run beside `TAKEN`.
EXTRA: Mapping[str, Callable[[Record, Pool], Any]] = {
    "settings": _settings,
    "overrides": lambda record, pool: [pool.place(text) for text in record.overrides],
    "program": _program,
    "digests": lambda record, pool: [leaf.digest[:DIGEST_LETTERS] for leaf in record.variables],
    "outputs": _outputs,
    "steady": _steady,
    "checks": _checks,
    "twins": _twins,
    "story": _story,
    "losses": _losses,
    "training": _training,
    "error": _error,
    "environment": lambda record, pool: pool.place(
        ("environment", repr(record.fingerprint)), lambda: record.fingerprint
    ),
}

LISTS = ("overrides", "digests", "outputs", "steady", "checks", "story", "losses")


def _missing(run: Mapping[str, Any], pool: Pool) -> dict[str, Any]:
    """The entry of a run that has no record yet."""
    entry: dict[str, Any] = dict.fromkeys((*TAKEN, *EXTRA)) | {name: [] for name in LISTS}
    known = {"num": run["num"], "status": "missing", "layer": run["layer"], "device": run["settings"]["device"]}
    overrides = [pool.place(text) for text in run["overrides"]]
    seed = run["settings"].get("seed")
    return entry | known | {"seed": seed, "overrides": overrides, "settings": _pairs(run["settings"], pool)}


def _thinned(curves: Sequence[list[Any]]) -> list[list[Any]]:
    """Pairs of step (counted from the run's first) and loss, so many that the page can carry them; ends are kept."""
    num_curves = sum(bool(curve) for curve in curves)
    most = max(2, min(MAX_CURVE_POINTS, MAX_POINTS // max(1, num_curves)))
    return [[[step, curve[step]] for step in _steps(len(curve), most)] for curve in curves]


def _steps(num: int, most: int) -> Iterable[int]:
    if num <= most:
        return range(num)
    return [round(index * (num - 1) / (most - 1)) for index in range(most)]


def _number(value: Any) -> Any:
    """A number with the digits that are shown; None for one that JSON has no word for."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
