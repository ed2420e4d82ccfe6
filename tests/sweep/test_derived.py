"""What is derived from the runs of a sweep is a task of the sweep: missing or out of date, it is made."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest

from runner.commands import main
from runner.records import codec, store
from runner.records.paths import SweepFolder
from runner.records.record_text import RecordTexts
from runner.sweep.writing.outputs import Summary
from runner.tracking import wandb_files

LEAN = ("tracking=disabled", "timing=off", "checks=off")
DERIVED = ("results.parquet", "results.csv", "report.html")


def die_after(folder: SweepFolder, event: str) -> None:
    """As if the process had been killed right after the last such line of the journal."""
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    last = max(index for index, line in enumerate(lines) if line.startswith(b'{"event":"%s"' % event.encode()))
    folder.journal.write_bytes(b"".join(lines[: last + 1]))


def names(folder: SweepFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}


def test_resume_makes_what_a_kill_left_out(folder, capsys):
    assert names(folder) >= set(DERIVED)
    die_after(folder, "done")
    for name in DERIVED:
        (folder.path / name).unlink()
    assert main.main(["resume", "outputs/s"]) == 0
    assert "3 done · 0 to do" in capsys.readouterr().out
    assert names(folder) >= set(DERIVED)


@pytest.mark.slow
def test_derived_files_older_than_runs_are_remade(folder):
    die_after(folder, "done")
    for name in DERIVED:
        (folder.path / name).write_text("of an earlier attempt")
    assert main.main(["resume", "outputs/s"]) == 0
    assert all(b"earlier attempt" not in (folder.path / name).read_bytes() for name in DERIVED)


@pytest.mark.slow
def test_a_deleted_derived_file_is_remade(folder):
    folder.results_csv.unlink()
    assert main.main(["resume", "outputs/s"]) == 0
    assert folder.results_csv.exists()


def test_concluded_sweeps_are_left_alone(folder):
    before = {name: (folder.path / name).stat().st_mtime_ns for name in DERIVED}
    assert main.main(["resume", "outputs/s"]) == 0
    assert {name: (folder.path / name).stat().st_mtime_ns for name in DERIVED} == before


@pytest.mark.slow
def test_resume_after_a_full_disk(folder, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    die_after(folder, "done")
    folder.report.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Summary, "write_report", full)
        assert main.main(["resume", "outputs/s"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not folder.report.exists()
    assert main.main(["resume", "outputs/s"]) == 0
    assert folder.report.exists()


@pytest.mark.slow
def test_resume_adds_the_sweep_wandb_run(folder):
    assert main.main(["-m", "seed=0,1", "sweep=tracked", *LEAN, "tracking=offline"]) == 0
    tracked = SweepFolder(Path("outputs/tracked"))
    whole = wandb_files.find_offline_runs(tracked.wandb)
    assert len(whole) == 3
    die_after(tracked, "tracked")
    os.rename(whole[wandb_files.wandb_id("tracked", "sweep")], "lost")
    assert main.main(["resume", "outputs/tracked"]) == 0
    assert wandb_files.find_offline_runs(tracked.wandb).keys() == whole.keys()


def test_shared_settings_leave_the_same_files(folder):
    plan = store.read_plan(folder)
    record = store.read_record(folder.run(0, plan["runs"][0]["run_id"]))
    texts, runs = [], []
    for num in range(24):
        settings = record.settings | {"seed": num // 4, "features": 8 + num % 4}
        settings = dict(reversed(settings.items())) if num == 17 else settings
        runs.append(plan["runs"][0] | {"num": num, "run_id": f"{num:02}" * 32})
        one = dataclasses.replace(record, num=num, run_id=f"{num:02}" * 32, settings=settings, host="é" * (num == 19))
        texts.append(codec.to_json(one))

    store.write_plan(folder, plan | {"runs": runs})

    def written(records):
        summary = Summary()
        for one in records:
            summary.add(one)
        assert len(summary.write(folder, [run["run_id"] for run in runs])) == 24
        summary.write_report(folder)
        return [(folder.path / name).read_bytes() for name in DERIVED]

    shared = RecordTexts()
    together = [codec.from_json(text, data_of=shared.data) for text in texts]
    assert together[0].settings["layer"] is together[4].settings["layer"]
    assert written(together) == written(map(codec.from_json, texts))
