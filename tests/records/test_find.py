"""Sweeps and runs found by folder, prefix and number."""

from __future__ import annotations

import dataclasses

from bare_record import RECORD

from runner.records import find, store
from runner.records.disk import files
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
