"""Files and folders of sweeps and runs: made, written whole, digested, moved aside, locked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from runner.errors import StorageError
from runner.records import locks
from runner.records.paths import SUGGESTED_ROOT, RunFolder, SweepFolder

# The leaves have digests of their own: hashing a large file of a checkpoint again would cost as much as saving it.
HASHED_BYTES = 2**20


def make_sweep_folder(folder: SweepFolder) -> None:
    """Makes the folder of a sweep, if it is not there yet.

    Raises:
      StorageError: It can't be made.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"output folder {folder.path}: {error.strerror or error}", SUGGESTED_ROOT) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Puts `content` at `path`: all of it or nothing, and on the disk when this returns."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def make_run_folder(folder: RunFolder) -> None:
    """Makes an empty folder for a run.

    Raises:
      StorageError: One is there: no run is ever written over another.
    """
    try:
        folder.path.mkdir(parents=True)
    except FileExistsError:
        raise StorageError(f"{folder.path} is there already and is not overwritten") from None


def remove_unfinished(folder: RunFolder, *, but_steps: bool = False) -> None:
    """Removes what a run left that was interrupted before the journal had it; with `but_steps` not the steps."""
    if not (but_steps and folder.steps.is_dir()):
        if folder.path.exists():
            shutil.rmtree(folder.path)
        return
    for path in folder.path.iterdir():
        if path.is_dir() and path != folder.steps:
            shutil.rmtree(path)
        elif path != folder.steps:
            path.unlink()


def archive_run(folder: RunFolder) -> None:
    """Moves a failed or stale run aside (`<folder>.old-<n>`), so that it can be done again and nothing is lost."""
    if not folder.path.exists():
        return
    number = 1
    while (aside := folder.path.with_name(f"{folder.path.name}.old-{number}")).exists():
        number += 1
    os.rename(folder.path, aside)


@contextlib.contextmanager
def locked(folder: SweepFolder) -> Iterator[None]:
    """Holds the folder for this process; the lock goes with the process, however it ends.

    Raises:
      StorageError: Another process works there.
    """
    with locks.whole(folder.lock) as taken:
        if not taken:
            raise StorageError(
                f"{folder.path}: another process works on this sweep", "wait for it, or sweep=another_name"
            )
        yield


def inside(folder: RunFolder, relative: str) -> Path:
    """The path that a record names, which lies in the run's folder.

    Raises:
      StorageError: It leads out of it.
    """
    path = folder.path / relative
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder.path)):
        raise StorageError(f"{folder.record}: the path {relative} leads out of the run's folder")
    return path


def links(folder: RunFolder) -> list[str]:
    """Relative paths of the symbolic links in a run's folder; no run writes one."""
    return sorted(path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_symlink())


def file_digests(folder: RunFolder) -> dict[str, str]:
    """What every file of a run's folder but its record holds: `sha256:…`, or of a large one its size (`123 bytes`)."""
    files = sorted(path for path in folder.path.rglob("*") if path.is_file() and path != folder.record)
    return {path.relative_to(folder.path).as_posix(): file_digest(path) for path in files}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or its size where that is over `HASHED_BYTES`."""
    num_bytes = path.stat().st_size
    if num_bytes > HASHED_BYTES:
        return f"{num_bytes} bytes"
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def folder_bytes(path: Path) -> int:
    """Size of all files below `path`."""
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
