"""Finds sweeps and runs by folder, and reads a sweep's rows and trials."""

from __future__ import annotations

import dataclasses
import glob
import os
from pathlib import Path
from typing import Any

from runner.errors import StorageError
from runner.records.codec import growing
from runner.records.journal import read_journal
from runner.records.paths import ASIDE, RunFolder, SweepFolder
from runner.records.record import Status
from runner.records.row import Row, Trial
from runner.records.store import has_whole_record, read_events, read_plan

# Journal events that mark the end of a run.
STATUSES = frozenset(status.value for status in Status)

# Statuses of rows whose run has not ended, or is no longer there; and of those whose record is not what was written.
MISSING = "missing"
DAMAGED = "damaged"

# Journal event for a removed checkpoint.
REMOVED = "removed"


def read_rows(folder: SweepFolder) -> list[Row]:
    """One row per run of a sweep, from the plan and the journal alone; a run not in the journal is `missing`.

    Raises:
      StorageError: The folder is not a sweep, or its journal is damaged.
    """
    with growing():
        return list(_rows(folder).values())


def _rows(folder: SweepFolder) -> dict[str, Row]:
    found: dict[str, dict[str, Any]] = {
        run["run_id"]: {
            "num": run["num"],
            "run_id": run["run_id"],
            "status": MISSING,
            "layer": run["layer"],
            "device": run["settings"]["device"],
            "settings": run["settings"],
            "overrides": run["overrides"],
        }
        for run in read_plan(folder)["runs"]
    }
    known = {item.name for item in dataclasses.fields(Row)}
    for event in read_events(folder):
        if event["event"] in STATUSES and event.get("run_id") in found:
            values = found[event["run_id"]]
            values |= {key: value for key, value in event.items() if key in known}
            values["status"] = event["event"]
        elif event["event"] == REMOVED and event["run_id"] in found:
            found[event["run_id"]]["checkpoint_bytes"] = None
    rows = {run_id: Row(**values) for run_id, values in found.items()}
    for trial in sorted(read_trials(folder), key=lambda trial: -trial.number):
        if trial.run_id in rows:
            rows[trial.run_id] = dataclasses.replace(rows[trial.run_id], trial=trial.number, objective=trial.value)
    return rows


def check_row(folder: SweepFolder, row: Row) -> Row:
    """`row` with the status of its run on disk: `missing` if its record is gone, `damaged` if it was changed."""
    run = folder.run(row.num, row.run_id)
    if row.status not in STATUSES or has_whole_record(run):
        return row
    return dataclasses.replace(row, status=DAMAGED if run.record.exists() else MISSING)


def read_trials(folder: SweepFolder) -> list[Trial]:
    """The finished trials of a search, in the order they were reported; empty for a sweep that is not a search.

    Of a trial that was reported twice, since its study was made again, the later report.

    Raises:
      StorageError: A line is damaged.
    """
    known = {item.name for item in dataclasses.fields(Trial)}
    lines = read_journal(folder.trials)
    trials = [Trial(**{key: value for key, value in line.items() if key in known}) for line in lines]
    return list({trial.number: trial for trial in trials}.values())


def find_sweeps(root: Path) -> list[SweepFolder]:
    """The sweeps in a folder, oldest plan first."""
    plans = sorted(root.glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    return [SweepFolder(path.parent) for path in plans]


def find_run(path: Path) -> RunFolder:
    """The run at `path`: its folder, its record, or a sweep's folder plus a prefix of the run's name.

    Raises:
      StorageError: No run matches, or more than one.
    """
    folder = path.parent if path.name == "record.json" else path
    # os.path copes with names that no file system accepts, where pathlib raises.
    if os.path.exists(folder / "record.json"):
        return RunFolder(folder)
    first_letters = f"runs/{glob.escape(folder.name)}*/record.json"
    found = sorted(folder.parent.glob(first_letters)) or sorted(folder.glob("runs/*/record.json"))
    exact = [record for record in found if record.parent.name.split("-")[0] == folder.name]
    found = exact or found
    # Earlier tries of a run, which lie aside, are found by their whole names alone.
    found = [record for record in found if ASIDE not in record.parent.name] or found
    if len(found) == 1:
        return RunFolder(found[0].parent)
    if found:
        suggestion = f"bridge-runner show {found[0].parent}"
        raise StorageError(f"{path}: {len(found)} runs are there, one is wanted", suggestion)
    raise StorageError(f"{path} is no run: it has no record.json", "bridge-runner ls SWEEP")


def find_runs(path: Path) -> tuple[list[RunFolder], list[str]]:
    """The run at `path`, or a sweep's done and failed runs, and the names of those whose folder is gone.

    Raises:
      StorageError: It is neither a run nor a sweep, or the sweep has no finished run.
    """
    sweep = SweepFolder(path)
    if not sweep.plan.exists():
        return [find_run(path)], []
    rows = [row for row in read_rows(sweep) if row.status in STATUSES]
    if not rows:
        raise StorageError(f"{path}: no run of this sweep is done", f"bridge-runner resume {path}")
    folders = [sweep.run(row.num, row.run_id) for row in rows]
    return [one for one in folders if one.path.is_dir()], [one.path.name for one in folders if not one.path.is_dir()]
