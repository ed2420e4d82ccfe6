"""What kills the process is blamed by the journal's marks, and left out by `resume`; what a user kills is not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from runner.config.enums import Retry
from runner.records import find
from runner.records.journal import Journal, read_journal
from runner.records.paths import SweepFolder
from runner.sweep import blame
from runner.sweep.run_state import State

KILLS = ("layer=custom", "layer.target=killing_layers.Kills", "layer.kwargs.width=4,8,2", "checkpoint=none")
LEAN = ("timing=off", "tracking=disabled", "sweep=s")
ROOT = Path(__file__).parents[2]


def bridge_runner(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    command = [sys.executable, "-m", "runner", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200)


def rows(folder: Path) -> dict[int, str]:
    found = find.read_rows(SweepFolder(folder / "outputs/s"))
    return {row.settings["layer"]["kwargs"]["width"]: row.error or row.status for row in found}


@pytest.mark.slow
def test_crashes_are_blamed_and_left_out(tmp_path):
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


@pytest.mark.slow
def test_crashing_checks_cost_one_run(tmp_path):
    first = bridge_runner(tmp_path, "-m", *KILLS, "+layer.kwargs.by=abort", "checks=strict", *LEAN)
    assert first.returncode == -signal.SIGABRT
    # Programs compile side by side: which one crashed may show only where it is alone, after all others.
    codes = [bridge_runner(tmp_path, "resume", "outputs/s", "--trust").returncode for _ in range(2)]
    assert codes in ([1, 1], [-signal.SIGABRT, 1])
    assert rows(tmp_path)[8] == "died: its process crashed in native code: Aborted"
    assert [error for error in rows(tmp_path).values() if "died" in error] == [rows(tmp_path)[8]]


@pytest.mark.slow
def test_killed_runs_are_tried_last(tmp_path):
    words = ("-m", *KILLS, "+layer.kwargs.by=kill", "checks=off", *LEAN)
    assert bridge_runner(tmp_path, *words).returncode == -signal.SIGKILL
    assert bridge_runner(tmp_path, *words).returncode == -signal.SIGKILL
    assert rows(tmp_path) == {4: "done", 8: "missing", 2: "done"}


def written(folder: Path, *attempts: list[dict[str, object]]) -> SweepFolder:
    """A sweep whose attempts, the last of them too, were killed."""
    (folder / "sweep.json").write_text("{}")
    with contextlib.closing(Journal(folder / "journal.jsonl")) as journal:
        for attempt in attempts:
            journal.append("start", oom_kills=None)
            for event in attempt:
                journal.append(**event)
    return SweepFolder(folder)


def judged(folder: SweepFolder, *run_ids: str, keeps_steps: bool = False) -> tuple[list[list[str]], dict[str, str]]:
    """Which runs are tried, in groups, and which are blamed."""
    tasks = [fake_task(num, run_id, keeps_steps=keeps_steps) for num, run_id in enumerate(run_ids)]
    plan = types.SimpleNamespace(folder=folder, retry=Retry.failed)
    found = blame.of(plan, tasks)
    groups = [[task.job.identity.run_id for task in group] for group in found.groups]
    return [[one for one in group if one not in found.died] for group in groups if group], found.died


def fake_task(num: int, run_id: str, *, keeps_steps: bool) -> types.SimpleNamespace:
    """What `blame` looks at in a task; the program of a run has its name in capitals."""
    identity = types.SimpleNamespace(run_id=run_id, program_id=run_id.upper())
    run = types.SimpleNamespace(train=types.SimpleNamespace(keeps_steps=keeps_steps))
    job = types.SimpleNamespace(num=num, identity=identity, run=run)
    return types.SimpleNamespace(job=job, state=State.new, program_key=run_id)


A = {"event": "begin", "run_id": "a"}
DONE_A = {"event": "executed", "run_id": "a"}
COMPILE_A, COMPILE_B = ({"event": "compile", "program_id": name} for name in "AB")
COMPILED_B = {"event": "compiled", "program_id": "B"}


@pytest.mark.parametrize(
    ("attempts", "groups"),
    [
        ([[A]], [["b"], ["a"]]),
        ([[A, DONE_A]], [["a", "b"]]),
        ([[A, {"event": "left"}]], [["a", "b"]]),
        ([[COMPILE_A, COMPILE_B]], [["a"], ["b"]]),
        ([[COMPILE_A, COMPILE_B, COMPILED_B]], [["b"], ["a"]]),
        ([[A]] * 4, [["b"], ["a"]]),
        ([[A]] * 5, [["b"]]),
    ],
)
def test_suspects_are_tried_last_and_alone(attempts, groups, tmp_path):
    assert judged(written(tmp_path, *attempts), "a", "b")[0] == groups


def test_proof_needs_a_suspected_crash(tmp_path):
    folder = written(tmp_path, [A])
    (tmp_path / ".journal.crash").write_text("Fatal Python error: Segmentation fault\n\nStack\n")
    said = "its process crashed in native code: Segmentation fault"
    assert judged(folder, "a", "b") == ([["b"]], {"a": said})
    written(tmp_path, [COMPILE_A, COMPILE_B])
    assert judged(folder, "a", "b") == ([["a"], ["b"]], {})


def test_resumed_training_is_never_blamed_for_kills(tmp_path):
    folder = written(tmp_path, *[[A]] * 9)
    assert judged(folder, "a", "b", keeps_steps=True) == ([["b"], ["a"]], {})


def test_low_memory_is_blamed_twice(tmp_path, monkeypatch):
    folder = written(tmp_path, [A], [A])
    events = [event | ({"oom_kills": num} if event["event"] == "start" else {}) for num, event in marked(folder)]
    monkeypatch.setattr(blame.journal, "read_journal", lambda path: events)
    monkeypatch.setattr(blame.memory, "num_oom_kills", lambda: 7)
    reason = "its process was killed 2 times while it was at this run; memory was short"
    assert judged(folder, "a", "b") == ([["b"]], {"a": reason})


def marked(folder: SweepFolder) -> list[tuple[int, dict[str, object]]]:
    return list(enumerate(read_journal(folder.journal)))
