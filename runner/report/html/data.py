"""Turns the records of a sweep into data for the report page. Pure: records in, JSON data out; no JAX.

The format scales to many runs. Every number is a column with one entry per run; values that runs share (a variable
tree, a check result, the lines of a seed's story) are stored once in a pool, and the runs hold indices into it.
"""

from __future__ import annotations

import operator
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

# The columns of results.parquet that the page shows; the others are names, or are shown differently below.
TAKEN = (
    *("num", "status", "layer", "host", "device", "seed", "started_at", "wall_s"),
    *("output_norm", "num_params", "variables_bytes", "checkpoint_bytes", "train_steps", "loss_first", "loss_last"),
    *("init_trace_s", "init_lower_s", "init_compile_s", "init_first_call_s"),
    *("apply_trace_s", "apply_lower_s", "apply_compile_s", "apply_first_call_s"),
    *("cache", "compile_contended", "compiled_here", "checkpoint_s", "tracker_s"),
)

# The status of a run without a record: nothing of it has ended yet.
WAITING = "waiting"


class Report:
    """Collects a report's data record by record: numbers and pool indices, not the records themselves."""

    def __init__(self) -> None:
        self._pool = Pool()
        self._entries: dict[str, dict[str, Any]] = {}
        self._weights: dict[str, list[Any]] = {}

    def add(self, record: Record, row: Mapping[str, Any] | None = None) -> None:
        """Adds a record, replacing an earlier one of the same run.

        Args:
          record: The record.
          row: Its row of results.parquet, if the caller already has it.
        """
        taken = row or {name: COLUMNS[name].value(record) for name in TAKEN}
        entry = {name: value if type(value := taken[name]) is not float else number(value) for name in TAKEN}
        entry["wall_s"] = entry["wall_s"] or None  # a run that was refused took no time of its own
        entry |= {name: value(record, self._pool) for name, value in EXTRA.items()}
        self._entries[record.run_id] = entry

    def add_weights(self, histograms: Mapping[str, list[Any]]) -> None:
        """Adds histograms by run id, each leaf a list of name, counts, and the ends of the first and last bin."""
        for run_id, leaves in histograms.items():
            self._weights[run_id] = [[name, counts, number(low), number(high)] for name, counts, low, high in leaves]

    def data(self, plan: Mapping[str, Any], folder: str, trials: Sequence[Trial] = ()) -> dict[str, Any]:
        """Everything that the page shows, as JSON data.

        Args:
          plan: The sweep's plan, as in `sweep.json`: runs without a record are shown as waiting.
          folder: The sweep's folder, as typed on the command line.
          trials: A search's trials told to the study.

        Returns:
          `head`: the summary in words (`runner.report.html.headline`). The rest feeds tables and charts: `columns` has
          a list with one entry per run for each of `TAKEN` and `EXTRA`, and `label`; `axes` the config keys that
          distinguish the runs, each with its list of values; `pool` the values that indices refer to; `search` the
          trials of a search, None if the sweep is not a search.
        """
        runs = sorted(plan["runs"], key=lambda run: run["num"])
        entries = [self._entries.get(run["run_id"]) or _missing(run, self._pool) for run in runs]
        names = (*TAKEN, *EXTRA)
        values = zip(*map(operator.itemgetter(*names), entries), strict=True) if entries else [()] * len(names)
        columns = {name: list(column) for name, column in zip(names, values, strict=True)}
        columns["label"] = [f"{run['num']}-{run['run_id'][:8]}" for run in runs]
        common, columns["settings"] = _common(columns["settings"])
        columns["losses"] = thinned(columns["losses"])
        if self._weights:
            columns["weights"] = [self._weights.get(run["run_id"], []) for run in runs]
        axes, pool = self._axes(columns), self._pool.values
        columns |= _of_trials(runs, trials)
        return {
            "head": headline.head(plan, axes, columns, pool, trials),
            "sweep": plan["sweep"],
            "folder": folder,
            "axes": axes,
            "common": common,
            "program_checks": list(matrix.CHECKS),
            "steady": list(STEADY),
            "meanings": {name: column.meaning for name, column in COLUMNS.items()},
            "flags": table.FLAG_MEANING,
            "search": _search(plan, trials),
            "columns": columns,
            "pool": pool,
        }

    def _axes(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """The config keys that distinguish the runs, with one value per run: a number, or the value as typed."""
        settings = [dict(self._pool.values[place] for place in places) for places in columns["settings"]]
        typed = [[self._pool.values[place] for place in places] for places in columns["overrides"]]
        rows = [
            Row(num=num, run_id="", status="", layer=layer, device="", settings=values, overrides=words)
            for num, (layer, values, words) in enumerate(zip(columns["layer"], settings, typed, strict=True))
        ]
        return table.varied(rows)


def _common(settings: Sequence[list[list[int]]]) -> tuple[list[int], list[list[int]]]:
    """The settings that all runs have in common, in order, and the others of each.

    Args:
      settings: Of each run, those before its seed, of it, and after it; looked at once where runs share them.
    """
    seeds: dict[tuple[int, int], set[int]] = {}
    for before, seed, after in settings:
        place = id(before), id(after)
        seeds[place] = seeds[place].intersection(seed) if place in seeds else set(seed)
    lists = {id(part): part for before, _, after in settings for part in (before, after)}
    everywhere = [{*lists[before], *lists[after], *both} for (before, after), both in seeds.items()]
    common = everywhere[0].intersection(*everywhere) if everywhere else set()
    others = {place: [one for one in part if one not in common] for place, part in lists.items()}
    varied = [
        [*others[id(before)], *(one for one in seed if one not in common), *others[id(after)]]
        for before, seed, after in settings
    ]
    first = settings[0] if settings else []
    return [place for part in first for place in part if place in common], varied


def _of_trials(runs: Sequence[Mapping[str, Any]], trials: Sequence[Trial]) -> dict[str, list[Any]]:
    """Columns of the runs of a search: the first trial that each run evaluated, and the value told for it."""
    first = {trial.run_id: trial for trial in sorted(trials, key=lambda trial: -trial.number)}
    answered = [first.get(run["run_id"]) for run in runs]
    if not trials:
        return {}
    return {
        "trial": [trial and trial.number for trial in answered],
        "objective": [trial and number(trial.value) for trial in answered],
    }


def _search(plan: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, Any] | None:
    """The goal of a search, and its trials: number, value told, index of the run, parameters asked for, error."""
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
    """The entry of a run without a record yet."""
    entry: dict[str, Any] = dict.fromkeys((*TAKEN, *EXTRA)) | {name: [] for name in LISTS}
    known = {"num": run["num"], "status": WAITING, "layer": run["layer"], "device": run["settings"]["device"]}
    overrides = [pool.place(text) for text in run["overrides"]]
    seed = run["settings"].get("seed")
    return entry | known | {"seed": seed, "overrides": overrides, "settings": pairs(run["settings"], pool)}
