"""Sweeps and runs found by folder, prefix and number."""

from __future__ import annotations

import contextlib
import dataclasses
import os

from bare_record import RECORD

from runner.records import find, store
from runner.records.disk import files
from runner.records.journal import Journal
from runner.records.paths import SweepFolder


def record(folder: SweepFolder, num: int, run_id: str) -> None:
    run = folder.run(num, run_id)
    files.make_run_folder(run)
    store.write_record(run, dataclasses.replace(RECORD, num=num, run_id=run_id))


def test_a_number_goes_before_first_letters(tmp_path):
    folder = SweepFolder(tmp_path)
    for num in (1, 12):
        record(folder, num, f"{num}23456789a")
    assert find.find_run(tmp_path / "1").path.name.startswith("1-")
    assert find.find_run(tmp_path / "12").path.name.startswith("12-")


def test_earlier_tries_need_their_whole_name(tmp_path):
    folder = SweepFolder(tmp_path)
    record(folder, 0, "a23456789a")
    files.archive_run(folder.run(0, "a23456789a"))
    record(folder, 0, "a23456789a")
    assert find.find_run(tmp_path / "0").path.name == "0-a2345678"
    assert find.find_run(tmp_path / "0-a2345678.old-1").path.name == "0-a2345678.old-1"


def plan(folder: SweepFolder, *run_ids: str) -> None:
    runs = [
        {"num": num, "run_id": run_id, "result_id": "r", "program_id": "p", "layer": "linear"}
        | {"overrides": [f"seed={num}"], "settings": {"device": "cpu", "seed": num}}
        for num, run_id in enumerate(run_ids)
    ]
    files.make_sweep_folder(folder)
    head = {"sweep": folder.name, "written_at": "2026-01-01T00:00:00", "origin": {}, "num_configs": len(runs)}
    store.write_plan(folder, head | {"runs": runs})


def test_sweeps_are_listed_oldest_first(tmp_path):
    for name, at in (("b", 3), ("a", 1), ("c", 2)):
        plan(SweepFolder(tmp_path / name))
        os.utime(tmp_path / name / "sweep.json", (at, at))
    assert [sweep.name for sweep in find.find_sweeps(tmp_path)] == ["a", "c", "b"]


def test_a_run_shows_its_first_trial(tmp_path):
    folder = SweepFolder(tmp_path)
    plan(folder, "a" * 64, "b" * 64)
    with contextlib.closing(Journal(folder.trials)) as journal:
        for number, run_id, value in ((0, "b", 5.0), (1, "a", 1.0), (2, "a", 1.0), (3, "b", 6.0)):
            journal.append("trial", number=number, overrides=[], value=value, run_id=run_id * 64, error=None)
    rows = find.read_rows(folder)
    assert [(row.trial, row.objective, row.overrides) for row in rows] == [(1, 1.0, ["seed=0"]), (0, 5.0, ["seed=1"])]


def test_of_a_trial_the_later_report_counts(tmp_path):
    folder = SweepFolder(tmp_path)
    with contextlib.closing(Journal(folder.trials)) as journal:
        for number, value in ((0, 5.0), (1, 1.0), (0, 4.0)):
            journal.append("trial", number=number, overrides=[], value=value, run_id="a" * 64, error=None)
    assert [(trial.number, trial.value) for trial in find.read_trials(folder)] == [(0, 4.0), (1, 1.0)]
