"""Processes of one machine take turns at measuring. Real processes, real locks."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from other_process import beside, go_on, said

from runner.commands import main
from runner.errors import StorageError
from runner.records import store
from runner.records.paths import RunFolder
from runner.timing import turns as turns_module
from runner.timing.turns import Turns, default_folder

WORK = """
with turns.Turns(folder, name="/their/sweep").working():
    print("works", flush=True)
    sys.stdin.readline()
"""
MEASURE = """
mine = turns.Turns(folder, name="/their/sweep")
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


LEAN = ["tracking=disabled", "checks=off", "checkpoint=none"]


def _link(folder: Path) -> None:
    (folder.parent / "theirs").mkdir()
    folder.symlink_to(folder.parent / "theirs")


def _own(folder: Path, *, uid: int = os.getuid(), mode: int = 0o700) -> None:
    folder.mkdir()
    folder.chmod(mode)
    os.chown(folder, uid, -1)


FOREIGN = {
    "link": (_link, "is a link, not a folder"),
    "file": (lambda folder: folder.write_bytes(b""), "File exists"),
    "FIFO": (os.mkfifo, "File exists"),
    "others": (lambda folder: _own(folder, mode=0o777), "others may write in it (mode 777)"),
    "group": (lambda folder: _own(folder, mode=0o720), "others may write in it (mode 720)"),
    "owner": (lambda folder: _own(folder, uid=12345), "belongs to user 12345, not to you"),
}
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")


@pytest.mark.parametrize("kind", [*(name for name in FOREIGN if name != "owner"), pytest.param("owner", marks=as_root)])
def test_foreign_lock_folder_is_refused(kind, tmp_path):
    folder = tmp_path / "locks"
    plant, reason = FOREIGN[kind]
    plant(folder)
    with pytest.raises(StorageError) as caught, Turns(folder).working():
        pass
    assert reason in str(caught.value)
    assert str(folder) in str(caught.value)
    suggested = f"chmod go-w {folder}" if "may write" in reason else "BRIDGE_RUNNER_LOCKS=~/"
    assert f"Try: {suggested}" in str(caught.value)


def test_folder_that_others_wrote_is_taken_back(tmp_path):
    _own(tmp_path / "locks", mode=0o777)
    (tmp_path / "locks").chmod(0o755)
    Turns(tmp_path / "locks").require()


@pytest.mark.parametrize("name", ["gate", "work", "guests"])
@pytest.mark.parametrize("kind", ["link", "FIFO", pytest.param("owner", marks=as_root)])
def test_foreign_lock_file_is_refused(name, kind, tmp_path):
    path = tmp_path / name
    if kind == "owner":
        path.touch()
        os.chown(path, 12345, -1)
    elif kind == "link":
        path.symlink_to(tmp_path / "victim")
    else:
        os.mkfifo(path)
    with pytest.raises(StorageError, match=f"{name} is a {kind}" if kind != "owner" else "belongs to user 12345"):
        Turns(tmp_path).require()
    assert not (tmp_path / "victim").exists()


def test_refused_locks_end_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDGE_RUNNER_LOCKS", str(tmp_path / "locks"))
    (tmp_path / "locks").mkdir()
    os.mkfifo(tmp_path / "locks" / "gate")
    assert main.main([*LEAN, "sweep=mine"]) == 2
    assert "locks/gate is a FIFO; a file of ours never is.\n  Try: rm " in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_a_wait_says_for_whom_once(tmp_path, monkeypatch):
    monkeypatch.setattr(turns_module, "SILENT_S", 0.05)
    monkeypatch.setattr(turns_module, "MAX_WAIT_S", 0.2)
    lines: list[str] = []
    with beside(MEASURE, tmp_path) as other:
        assert said(other) == "measures"
        turns = Turns(tmp_path, say=lines.append)
        with turns.working():
            assert turns.measured(lambda: 7, wait=True) == (7, True)
    (line,) = lines
    assert line.startswith(f"waiting at most 0 s for /their/sweep (pid {other.pid}), so that")
    assert line.endswith("timing.turns=false or timing=off does not wait")


def test_killed_processes_are_not_named(tmp_path):
    with beside(WORK, tmp_path) as other:
        assert said(other) == "works"
        other.kill()
        other.wait()
        turns = Turns(tmp_path)
        with turns.working():
            assert turns._others() == []
    assert not list(tmp_path.glob("worker-*"))


def test_unmeasured_work_does_not_wait(tmp_path):
    lines: list[str] = []
    with beside(MEASURE, tmp_path) as other:
        assert said(other) == "measures"
        with Turns(tmp_path, say=lines.append).working(wait=False):
            go_on(other)
            assert said(other) == "('\\n', True)", "a guest makes their measurement contended"
    assert lines == []


def test_a_past_guest_contends_too(tmp_path):
    with beside(MEASURE, tmp_path) as other:
        assert said(other) == "measures"
        with Turns(tmp_path).working(wait=False):
            pass
        go_on(other)
        assert said(other) == "('\\n', True)"


@pytest.mark.parametrize("skip", ["timing=off", "timing.turns=false"])
def test_waiting_can_be_skipped(skip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDGE_RUNNER_LOCKS", str(tmp_path / "locks"))
    with beside(MEASURE, tmp_path / "locks") as other:
        assert said(other) == "measures"
        assert main.main([*LEAN, skip, "sweep=mine"]) == 0
        assert "waiting" not in capsys.readouterr().err
