"""What the report of a sweep shows: its records as data for the page. Pure: records in, JSON data out; no JAX.

The data is made for many runs. Every number is a column with an entry a run; what runs share (a tree of variables, what
a check said, the lines of a seed's story) stands once in a pool, and the runs hold places in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner.records.columns import COLUMNS
from runner.records.record import Record
from runner.records.row import Row, Trial
from runner.report import matrix, table
from runner.report.html import headline
from runner.report.html.pool import Pool, number
from runner.report.html.run_data import EXTRA, LISTS, STEADY, pairs
from runner.report.html.training_data import thinned

# The columns of results.parquet that the page shows; the others are names, or are told in another way below.
TAKEN = (
    *("num", "status", "layer", "host", "device", "seed", "started_at", "wall_s"),
    *("output_norm", "num_params", "variables_bytes", "checkpoint_bytes", "train_steps", "loss_first", "loss_last"),
    *("init_trace_s", "init_lower_s", "init_compile_s", "init_first_call_s"),
    *("apply_trace_s", "apply_lower_s", "apply_compile_s", "apply_first_call_s"),
    *("cache", "compile_contended", "compiled_here", "checkpoint_s", "tracker_s"),
)


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
        entry = {name: number(taken[name]) for name in TAKEN}
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
        columns["losses"] = thinned(columns["losses"])
        axes, pool = self._axes(columns), self._pool.values
        columns |= _of_trials(runs, trials)
        return {
            "head": headline.head(plan, axes, columns, pool, trials),
            "sweep": plan["sweep"],
            "folder": folder,
            "axes": axes,
            "common": [place for place in entries[0]["settings"] if place in common] if runs else [],
            "program_checks": list(matrix.CHECKS),
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
        "objective": [trial and number(trial.value) for trial in answered],
    }


def _search(plan: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, Any] | None:
    """What a search was for, and its trials: number, what was told, the place of the run, what was asked for, error."""
    study = plan.get("study")
    if study is None:
        return None
    places = {run["run_id"]: place for place, run in enumerate(sorted(plan["runs"], key=lambda run: run["num"]))}
    told = [
        [trial.number, number(trial.value), places.get(trial.run_id or ""), " ".join(trial.overrides), trial.error]
        for trial in sorted(trials, key=lambda trial: trial.number)
    ]
    return {"objective": study["objective"], "direction": study["direction"], "trials": told}


def _missing(run: Mapping[str, Any], pool: Pool) -> dict[str, Any]:
    """The entry of a run that has no record yet."""
    entry: dict[str, Any] = dict.fromkeys((*TAKEN, *EXTRA)) | {name: [] for name in LISTS}
    known = {"num": run["num"], "status": "missing", "layer": run["layer"], "device": run["settings"]["device"]}
    overrides = [pool.place(text) for text in run["overrides"]]
    seed = run["settings"].get("seed")
    return entry | known | {"seed": seed, "overrides": overrides, "settings": pairs(run["settings"], pool)}
