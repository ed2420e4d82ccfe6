"""Nothing that somebody has put where we write is written through, waited for or followed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.commands import main
from runner.errors import StorageError
from runner.records.disk import files, locks, plain_files
from runner.records.journal import Journal
from runner.records.paths import RunFolder, SweepFolder
from runner.tracking import wandb_files

LEAN = ["tracking=disabled", "checks=off", "timing=off"]


@pytest.fixture
def victim(tmp_path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    return path


def _locked(path: Path) -> None:
    with locks.whole(path):
        pass


def _part_locked(path: Path) -> None:
    with locks.parts(path, [0]):
        pass


APPENDING: dict[str, Callable[[Path], object]] = {
    "journal": lambda path: Journal(path).close(),
    "lock": _locked,
    "part": _part_locked,
    "sent": lambda path: wandb_files.append_sent(path.parent, "server", {"folder": "url"}),
}


def test_planted_temporary_name_is_not_followed(tmp_path, victim):
    planted = tmp_path / f".results.csv.{os.getpid()}.tmp"
    planted.symlink_to(victim)
    files.write_atomic(tmp_path / "results.csv", b"seed\n0\n")
    assert victim.read_bytes() == b"precious"
    assert planted.is_symlink()
    assert (tmp_path / "results.csv").read_bytes() == b"seed\n0\n"


def test_taken_temporary_name_is_not_written(tmp_path, victim, monkeypatch):
    monkeypatch.setattr(plain_files, "temporary_name", lambda path: path.with_name("guessed"))
    (tmp_path / "guessed").symlink_to(victim)
    with pytest.raises(FileExistsError):
        files.write_atomic(tmp_path / "results.csv", b"x")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "guessed").is_symlink()


def test_temporary_names_differ_each_time(tmp_path):
    assert len({plain_files.temporary_name(tmp_path / "checkpoint") for _ in range(9)}) == 9


def test_link_at_the_target_is_replaced(tmp_path, victim):
    (tmp_path / "results.csv").symlink_to(victim)
    files.write_atomic(tmp_path / "results.csv", b"x")
    assert (victim.read_bytes(), (tmp_path / "results.csv").is_symlink()) == (b"precious", False)


def test_written_files_keep_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_atomic(tmp_path / "results.csv", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "results.csv").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("what", APPENDING)
@pytest.mark.parametrize("kind", ["link", "FIFO", "folder"])
def test_appending_refuses_all_but_files(what, kind, tmp_path, victim):
    path = tmp_path / wandb_files.SENT
    {"link": lambda: path.symlink_to(victim), "FIFO": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    with pytest.raises(StorageError, match=rf"{path.name} is a {kind}; a file of ours never is\.\n  Try: rm "):
        APPENDING[what](path)
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("what", APPENDING)
def test_appending_makes_and_keeps_files(what, tmp_path):
    path = tmp_path / wandb_files.SENT
    path.write_bytes(b'{"event":"start"}\n')
    APPENDING[what](path)
    assert path.read_bytes().startswith(b'{"event":"start"}\n')
    path.unlink()
    APPENDING[what](path)
    assert path.is_file()


def test_linked_journal_ends_the_command(tmp_path, victim, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("outputs/mine").mkdir(parents=True)
    Path("outputs/mine/journal.jsonl").symlink_to(victim)
    assert main.main([*LEAN, "sweep=mine"]) == 2
    error = capsys.readouterr().err
    assert "journal.jsonl is a link; a file of ours never is.\n  Try: rm " in error
    assert victim.read_bytes() == b"precious"
    os.unlink(error.split("rm ")[1].strip())
    assert main.main([*LEAN, "sweep=mine"]) == 0


@pytest.mark.parametrize("but_steps", [True, False])
def test_linked_run_folders_keep_their_targets(but_steps, tmp_path):
    (tmp_path / "theirs" / "steps").mkdir(parents=True)
    (tmp_path / "theirs" / "precious").write_bytes(b"x")
    linked = RunFolder(tmp_path / "linked")
    linked.path.symlink_to(tmp_path / "theirs")
    files.remove_unfinished(linked, but_steps=but_steps)
    assert not linked.path.is_symlink()
    own = RunFolder(tmp_path / "own")
    own.path.mkdir()
    own.steps.symlink_to(tmp_path / "theirs" / "steps")
    files.remove_unfinished(own, but_steps=but_steps)
    assert not own.path.exists()
    assert (tmp_path / "theirs" / "precious").exists()
    assert (tmp_path / "theirs" / "steps").is_dir()


def test_steps_survive_unfinished_files(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.steps.mkdir(parents=True)
    folder.hydra.mkdir()
    folder.output(single=True).write_bytes(b"x")
    (folder.path / "linked").symlink_to(tmp_path)
    files.remove_unfinished(folder, but_steps=True)
    assert list(folder.path.iterdir()) == [folder.steps]


@pytest.mark.slow
def test_all_files_of_ours_are_opened_safely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[str, int]] = []

    def hook(event: str, values: tuple) -> None:
        if event == "open" and hooked and isinstance(values[0], (str, bytes, os.PathLike)):
            seen.append((os.fsdecode(values[0]), values[2]))

    hooked = [True]
    sys.addaudithook(hook)
    try:
        assert main.main(["-m", *LEAN, "seed=0,1", "sweep=mine"]) == 0
        run, *_ = SweepFolder(tmp_path / "outputs/mine").path.glob("runs/*")
        assert main.main(["export", str(run), "--to", "linen"]) == 0
    finally:
        hooked.clear()
    written = {
        path: flags
        for path, flags in seen
        if flags & (os.O_WRONLY | os.O_RDWR) and "outputs/mine" in path and ".orbax-checkpoint-tmp" not in path
    }
    names = {Path(path).name for path in written}
    assert {"journal.jsonl", ".lock", "config.yaml"} <= names
    assert any(name.startswith(".record.json.") for name in names)
    assert [path for path, flags in written.items() if not flags & os.O_NOFOLLOW] == []
