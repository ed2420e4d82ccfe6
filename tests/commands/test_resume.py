"""What is missing or failed of a sweep, done later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from swept_folder import QUIET, all_files, forget, of_other_software, run, run_folder

from runner.commands import main


@pytest.fixture
def here(swept_here):
    return swept_here


@pytest.mark.slow
def test_resume_does_only_missing_runs(here, capsys):
    before = json.loads((run_folder("fine", 2) / "record.json").read_text())
    forget("fine", 2)
    kept = all_files()
    code, out, _ = run(capsys, "resume", "outputs/fine")
    assert code == 0
    assert out.startswith("fine: 4 runs · 2 programs · 3 done, 1 new · 1 to do\n")
    assert "\n4 of 4 runs done\n" in out
    after = json.loads((run_folder("fine", 2) / "record.json").read_text())
    assert [leaf["digest"] for leaf in after["variables"]] == [leaf["digest"] for leaf in before["variables"]]
    records = [path for path in kept if path.name == "record.json"]
    assert {path: kept[path] for path in records} == {path: path.stat().st_mtime_ns for path in records}


@pytest.mark.slow
def test_resume_works_from_another_folder(here, tmp_path_factory, monkeypatch, capsys):
    forget("fine", 0)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    code, out, _ = run(capsys, "resume", str(here / "outputs" / "fine"))
    assert (code, out.splitlines()[0]) == (0, "fine: 4 runs · 2 programs · 3 done, 1 new · 1 to do")
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_resume_retries_failed_runs(here, capsys):
    code, out, _ = run(capsys, "resume", "outputs/mixed", "--trust", "failure.retry=none")
    assert (code, out.splitlines()[0]) == (1, "mixed: 2 runs · 2 programs · 1 done, 1 failed · 0 to do")
    (here / "broken").unlink()
    code, out, _ = run(capsys, "resume", "outputs/mixed", "--trust")
    assert (code, out.splitlines()[0]) == (0, "mixed: 2 runs · 2 programs · 1 done, 1 failed · 1 to do")


@pytest.mark.slow
def test_resume_redoes_a_single_run(here, capsys):
    assert main.main(["seed=3", "sweep=alone", *QUIET]) == 0
    forget("alone", 0)
    code, out, _ = run(capsys, "resume", "outputs/alone")
    assert (code, out.splitlines()[0]) == (0, "alone: 1 run · 1 program")
    assert run_folder("alone", 0).is_dir()


def test_resume_handles_quotes_in_folder_names(here, capsys):
    (here / "it's").mkdir()
    shutil.copytree("outputs/fine", "it's/fine")
    code, out, err = run(capsys, "resume", "it's/fine")
    assert (code, err) == (0, "")
    assert out.startswith("fine: 4 runs · 2 programs · 4 done · 0 to do\n")


@pytest.mark.slow
def test_runs_of_other_software_are_redone(here, capsys):
    of_other_software("fine")
    code, out, _ = run(capsys, "resume", "outputs/fine")
    assert (code, out.splitlines()[0]) == (0, "fine: 4 runs · 2 programs · 4 stale · 0 to do")
    assert "stale       done by other software; do them again with failure.retry=all" in out
    code, out, _ = run(capsys, "resume", "outputs/fine", "failure.retry=all")
    assert (code, out.splitlines()[0]) == (0, "fine: 4 runs · 2 programs · 4 stale · 4 to do")
    assert sorted(path.name[-6:] for path in Path("outputs/fine/runs").iterdir()).count(".old-1") == 4
    code, out, _ = run(capsys, "resume", "outputs/fine", "failure.retry=all")
    assert (code, out.splitlines()[0]) == (0, "fine: 4 runs · 2 programs · 4 done · 0 to do")


def test_failed_foreign_runs_stay_failed(here, capsys):
    of_other_software("mixed")
    code, out, _ = run(capsys, "resume", "outputs/mixed", "--trust", "failure.retry=none")
    assert (code, out.splitlines()[0]) == (1, "mixed: 2 runs · 2 programs · 1 failed, 1 stale · 0 to do")
