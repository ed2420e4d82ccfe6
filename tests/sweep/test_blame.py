"""What kills the process is blamed by the journal's marks, and left out by `resume`; what a user kills is not."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner.records import find
from runner.records.journal import read_journal
from runner.records.paths import SweepFolder

KILLS = ("layer=custom", "layer.target=killing_layers.Kills", "layer.kwargs.width=4,8,2", "checkpoint=none")
LEAN = ("timing=off", "tracking=disabled", "sweep=s")
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def bridge_runner(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    command = [sys.executable, "-m", "runner", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200)


def rows(folder: Path) -> dict[int, str]:
    found = find.read_rows(SweepFolder(folder / "outputs/s"))
    return {row.settings["layer"]["kwargs"]["width"]: row.error or row.status for row in found}


def test_a_crash_is_blamed_at_once_and_left_out(tmp_path):
    first = bridge_runner(tmp_path, "-m", *KILLS, "+layer.kwargs.by=abort", "checks=off", *LEAN)
    assert first.returncode == -signal.SIGABRT
    assert list((tmp_path / "outputs/s").glob(".*.crash")) != []
    again = bridge_runner(tmp_path, "resume", "outputs/s", "--trust")
    said = "died: its process crashed in native code: Aborted"
    assert (again.returncode, f"run 1 failed: {said}" in again.stderr) == (1, True)
    assert rows(tmp_path) == {4: "done", 8: said, 2: "done"}
    last = bridge_runner(tmp_path, "resume", "outputs/s", "--trust")
    assert last.returncode == 1
    assert "left out, since they killed their process before: run 1; failure.retry=all tries them again" in last.stderr


def test_a_crash_of_the_checks_costs_no_other_run(tmp_path):
    first = bridge_runner(tmp_path, "-m", *KILLS, "+layer.kwargs.by=abort", "checks=strict", *LEAN)
    assert first.returncode == -signal.SIGABRT
    # Programs compile side by side: which one crashed may show only where it is alone, after all others.
    codes = [bridge_runner(tmp_path, "resume", "outputs/s", "--trust").returncode for _ in range(2)]
    assert codes in ([1, 1], [-signal.SIGABRT, 1])
    assert rows(tmp_path)[8] == "died: its process crashed in native code: Aborted"
    assert [error for error in rows(tmp_path).values() if "died" in error] == [rows(tmp_path)[8]]


def test_a_run_killed_thrice_is_left_out(tmp_path):
    words = ("-m", *KILLS, "+layer.kwargs.by=kill", "checks=off", *LEAN)
    # The others are done before it is tried again.
    assert [bridge_runner(tmp_path, *words).returncode for _ in range(3)] == [-signal.SIGKILL] * 3
    assert collections.Counter(rows(tmp_path).values()) == {"done": 2, "missing": 1}
    last = bridge_runner(tmp_path, *words)
    assert last.returncode == 1, last.stderr
    assert rows(tmp_path)[8].startswith("died: its process was killed 3 times while it was at this run")
    record = json.loads(next((tmp_path / "outputs/s/runs").glob("1-*/record.json")).read_text())
    assert record["status"] == "failed"
    events = [(event["event"], event.get("run_id")) for event in read_journal(tmp_path / "outputs/s/journal.jsonl")]
    assert events.count(("begin", record["run_id"])) == 3
