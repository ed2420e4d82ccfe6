"""Processes of one machine take turns at measuring. Real processes, real locks."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from other_process import beside, go_on, said

from runner.commands import main
from runner.records import store
from runner.records.paths import RunFolder
from runner.timing.turns import Turns, default_folder

WORK = """
with turns.Turns(folder).working():
    print("works", flush=True)
    sys.stdin.readline()
"""
MEASURE = """
mine = turns.Turns(folder)
with mine.working():
    print(mine.measured(lambda: print("measures", flush=True) or sys.stdin.readline(), wait=True), flush=True)
"""


def test_lock_folder_follows_its_variable(monkeypatch):
    monkeypatch.setenv("BRIDGE_RUNNER_LOCKS", "/dev/shm/mine")
    assert default_folder() == Path("/dev/shm/mine")
    monkeypatch.delenv("BRIDGE_RUNNER_LOCKS")
    assert default_folder() == Path(tempfile.gettempdir()) / f"bridge-runner-{os.getuid()}"


def test_lone_measurements_are_not_contended(tmp_path):
    turns = Turns(tmp_path)
    with turns.working():
        assert turns.measured(lambda: 7, wait=True) == (7, False)
        assert turns.measured(lambda: 7, wait=False) == (7, False)


def test_measuring_processes_take_turns(tmp_path):
    with beside(MEASURE, tmp_path) as first:
        assert said(first) == "measures"
        with beside(MEASURE, tmp_path) as second:
            go_on(first)
            assert said(first) == "('\\n', False)"
            assert said(second) == "measures"
            go_on(second)
            assert said(second) == "('\\n', False)"


@pytest.mark.parametrize("wait", [True, False])
def test_measurements_during_other_work_are_contended(wait, tmp_path):
    with beside(WORK, tmp_path) as other:
        assert said(other) == "works"
        turns = Turns(tmp_path, give_up=lambda: True)
        with turns.working():
            assert turns.measured(lambda: 7, wait=wait) == (7, True)


@pytest.mark.slow
@pytest.mark.parametrize(("turns", "flagged"), [("true", False), ("false", True)])
def test_contention_is_flagged_without_turns(turns, flagged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDGE_RUNNER_LOCKS", str(tmp_path / "locks"))
    with beside(WORK, tmp_path / "locks") as other:
        assert said(other) == "works"
        if not flagged:
            go_on(other)
        words = ["tracking=disabled", "checks=off", "checkpoint=none", f"timing.turns={turns}", f"sweep=turns-{turns}"]
        assert main.main(words) == 0
    (path,) = tmp_path.glob("outputs/*/runs/*")
    timing = store.read_record(RunFolder(path)).timing
    assert timing.contended is flagged
    assert ("contended" in timing.apply_latency.summary.flags) is flagged
