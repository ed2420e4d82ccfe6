"""Opens files and folders where others may have put something first: links, FIFOs, files of other users.

A name that can be guessed is one that somebody can take, so temporary names are random; a file is opened only if it
is a regular one, through no link, and without waiting for whoever is at the other end of a FIFO.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import stat
from pathlib import Path
from typing import IO, Any

from runner.errors import StorageError

READ_BYTES = 2**20

SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def temporary_name(path: Path) -> Path:
    """A name next to `path` that can't be guessed, for what is renamed to `path` once it is whole."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")


def is_temporary(name: str, of: str) -> bool:
    """Whether `name` is one that `temporary_name` gives for a file named `of`."""
    return re.fullmatch(rf"\.{re.escape(of)}\.[0-9a-f]{{16}}\.tmp", name) is not None


def create(path: Path) -> IO[bytes]:
    """A new file, open for writing.

    Raises:
      FileExistsError: Something is there, a link that leads nowhere included.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY, 0o666), "wb")


def append(path: Path, *, own: bool = False) -> IO[Any]:
    """A regular file, made if it is missing, open for reading and appending, without a buffer.

    Args:
      path: The file.
      own: Whether it must belong to this user.

    Raises:
      StorageError: It is a link, a FIFO, a folder or a device, or somebody else's.
      OSError: It can't be opened.
    """
    require_regular(path)
    # Again on the open file, which can't be exchanged any more.
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | SAFELY, 0o666)
    try:
        about = os.fstat(descriptor)
        _require_regular(path, about)
        if own and about.st_uid != os.getuid():
            raise StorageError(f"{path} belongs to {_owner(about)}, not to you")
        return os.fdopen(descriptor, "a+b", buffering=0)
    except BaseException:
        with contextlib.suppress(OSError):  # os.fdopen closes it if it fails
            os.close(descriptor)
        raise


def opened(path: Path) -> IO[bytes]:
    """A file of others, open for reading; a link is followed.

    Raises:
      OSError: It can't be read, or it is a folder, a FIFO, a socket or a device.
    """
    descriptor, _ = _open(path)
    return os.fdopen(descriptor, "rb")


def _open(path: Path | str) -> tuple[int, int]:
    """A file that is open for reading, and its size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    about = os.fstat(descriptor)
    mode = about.st_mode
    kind = kind_of(mode)
    if kind is not None:
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, f"it is {kind}, and no file", str(path))
    return descriptor, about.st_size


def read_bytes(path: Path | str) -> bytes:
    """What a file holds.

    Raises:
      OSError: As for `opened`.
    """
    descriptor, size = _open(path)
    try:
        content = os.read(descriptor, size + 1)
        if len(content) == size:  # that byte more was not there
            return content
        while more := os.read(descriptor, READ_BYTES):
            content += more
    finally:
        os.close(descriptor)
    return content


def require_files(folder: Path) -> None:
    """Checks that others who read all of a folder find files there: what opens a FIFO waits for ever.

    Links are followed; what leads nowhere, or can't be read, is left to the reader.

    Args:
      folder: The folder; may be missing.

    Raises:
      StorageError: A FIFO, a socket or a device is in it, or in a folder of it.
    """
    seen: set[tuple[int, int]] = set()  # a link may lead back
    for parent, folders, names in os.walk(folder, followlinks=True):
        about = os.stat(parent)
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(OSError):
                if kind := kind_of(path.stat().st_mode):
                    raise StorageError(f"{path} is {kind}, and no file")


def kind_of(mode: int) -> str | None:
    """What a path is instead of a file, given its `st_mode`; None for a file."""
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFLNK: "a link", stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def require_regular(path: Path) -> None:
    """Checks that `path` is a regular file or missing.

    Raises:
      StorageError: It is a link, a FIFO, a folder or a device.
    """
    with contextlib.suppress(FileNotFoundError):
        _require_regular(path, os.lstat(path))


def private_folder(path: Path, suggestion: str) -> None:
    """Makes a folder for this user alone, unless it is there.

    Args:
      path: The folder.
      suggestion: What to type to use another one.

    Raises:
      StorageError: It can't be made, it is no folder, or somebody else owns it or may write in it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = os.lstat(path)
    except OSError as error:
        raise StorageError(f"folder {path}: {error.strerror or error}", suggestion) from error
    if not stat.S_ISDIR(about.st_mode):
        raise StorageError(f"{path} is {kind_of(about.st_mode) or 'a file'}, not a folder", suggestion)
    if about.st_uid != os.getuid():
        raise StorageError(f"folder {path} belongs to {_owner(about)}, not to you", suggestion)
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(about.st_mode)
        raise StorageError(f"folder {path}: others may write in it (mode {mode:o})", f"chmod go-w {path}")


def _require_regular(path: Path, about: os.stat_result) -> None:
    if kind := kind_of(about.st_mode):
        raise StorageError(f"{path} is {kind}; a file of ours never is", f"rm {path}")


def _owner(about: os.stat_result) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(about.st_uid).pw_name
    return f"user {about.st_uid}"
