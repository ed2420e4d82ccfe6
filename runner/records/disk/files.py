"""Files and folders of sweeps and runs: creating, atomic writes, digests, archiving, locking."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from runner.errors import StorageError
from runner.records.disk import flush, locks, plain_files
from runner.records.paths import ASIDE, SUGGESTED_ROOT, RunFolder, SweepFolder

# Orbax writes when it began and ended, and the checkpoint's absolute path.
TIME_AND_PLACE = ("_CHECKPOINT_METADATA", "commit_success.txt")

# Leaves already have digests: hashing a large checkpoint file again would cost as much as saving it.
HASHED_BYTES = 2**20


def make_sweep_folder(folder: SweepFolder) -> None:
    """Creates the folder of a sweep, if it does not exist yet.

    Raises:
      StorageError: It can't be created.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"output folder {folder.path}: {error.strerror or error}", SUGGESTED_ROOT) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Writes `content` to `path` atomically; flushed to disk on return."""
    write_all_atomic({path: content})


def write_all_atomic(contents: Mapping[Path, bytes]) -> None:
    """Writes each of `contents` to its path atomically; all flushed to disk on return, in hardly more time than one."""
    made: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            temporary = plain_files.temporary_name(path)
            with plain_files.create(temporary) as file:
                made[temporary] = path
                file.write(content)
        flush.flush_files(list(made))
        for temporary, path in made.items():
            os.replace(temporary, path)
    except BaseException:
        for temporary in made:
            temporary.unlink(missing_ok=True)
        raise


def make_run_folder(folder: RunFolder) -> None:
    """Creates an empty folder for a run.

    Raises:
      StorageError: It already exists: a run never overwrites another.
    """
    try:
        folder.path.mkdir(parents=True)
    except FileExistsError:
        raise StorageError(f"{folder.path} is there already and is not overwritten") from None


def remove_unfinished(folder: RunFolder, *, but_steps: bool = False) -> None:
    """Removes the files of a run that was interrupted before it was journaled; `but_steps` keeps its steps."""
    linked = folder.path.is_symlink() or folder.steps.is_symlink()
    if linked or not (but_steps and folder.steps.is_dir()):
        _remove(folder.path)
        return
    for path in folder.path.iterdir():
        if path != folder.steps:
            _remove(path)


def _remove(path: Path) -> None:
    """Removes a file, a folder, or a link, whose target stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def archive_run(folder: RunFolder) -> None:
    """Moves a failed or stale run aside (`<folder>.old-<n>`), so that it can be rerun and nothing is lost."""
    if not folder.path.exists():
        return
    number = 1
    while (aside := folder.path.with_name(f"{folder.path.name}{ASIDE}{number}")).exists():
        number += 1
    os.rename(folder.path, aside)


@contextlib.contextmanager
def locked(folder: SweepFolder) -> Iterator[None]:
    """Locks the folder for this process; the lock is released when the process ends, however it ends.

    Raises:
      StorageError: Another process holds the lock.
    """
    with locks.whole(folder.lock) as taken:
        if not taken:
            raise StorageError(
                f"{folder.path}: another process works on this sweep", "wait for it, or sweep=another_name"
            )
        yield


def inside(folder: RunFolder, relative: str) -> Path:
    """Resolves a path named by a record, which must lie inside the run's folder.

    Raises:
      StorageError: It lies outside.
    """
    path = folder.path / relative
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder.path)):
        raise StorageError(f"{folder.record}: the path {relative} leads out of the run's folder")
    return path


def links(folder: RunFolder) -> list[str]:
    """Relative paths of the symbolic links in a run's folder; runs never write any."""
    return sorted(path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_symlink())


def file_digests(folder: RunFolder) -> dict[str, str]:
    """Digests of all files in a run's folder except the record: `sha256:…`, or the size if large (`123 bytes`).

    Nor of what a process left that was killed while it wrote the record once more: the one that is there is whole.
    """
    files = {path.relative_to(folder.path).as_posix(): path for path in folder.path.rglob("*") if path.is_file()}
    record = folder.record.name
    own = {name: path for name, path in files.items() if name != record and not plain_files.is_temporary(name, record)}
    return {name: file_digest(own[name]) for name in sorted(own)}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or its size if above `HASHED_BYTES`."""
    num_bytes = path.stat().st_size
    if num_bytes > HASHED_BYTES:
        return f"{num_bytes} bytes"
    return f"sha256:{hashlib.sha256(plain_files.read_bytes(path)).hexdigest()}"


def checkpoint_bytes(path: Path) -> int:
    """Total size of a checkpoint's files, without those of `TIME_AND_PLACE`: equal sweeps have equal checkpoints."""
    counted = (entry for entry in path.rglob("*") if entry.is_file() and entry.name not in TIME_AND_PLACE)
    return sum(entry.stat().st_size for entry in counted)
