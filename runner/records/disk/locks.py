"""File locks that are released when the process that holds them ends, however it ends.

They work across machines where the file system supports it: NFS 4, NFS 3 with its lock daemon, Lustre with `-o flock`.
POSIX locks, since those cover byte ranges; closing any other descriptor of the file drops them, so only this opens it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from runner.errors import StorageError
from runner.records.disk import plain_files

BUSY = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[bool]:
    """Locks a whole file; False if another process holds any part of it.

    Raises:
      StorageError: The file can't be opened, or is a link, a FIFO or a device, or its file system keeps no locks.
    """
    with _opened(path) as file:
        yield _take(file, path, 0, 0)


@contextlib.contextmanager
def parts(path: Path, numbers: Iterable[int]) -> Iterator[list[int]]:
    """Locks parts of a file; returns the numbers of those that no other process holds.

    Raises:
      StorageError: The file can't be opened, or is a link, a FIFO or a device, or its file system keeps no locks.
    """
    with _opened(path) as file:
        yield [number for number in numbers if _take(file, path, number, 1)]


def _opened(path: Path) -> IO[Any]:
    try:
        return plain_files.append(path)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _take(file: IO[Any], path: Path, start: int, length: int) -> bool:
    try:
        fcntl.lockf(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except OSError as error:
        if error.errno in BUSY:
            return False
        raise StorageError(f"{path}: this file system keeps no locks ({error.strerror})", KEEP_LOCKS) from error
    return True


KEEP_LOCKS = "output_root=FOLDER on a file system that does (NFS 4, Lustre mounted with flock)"
