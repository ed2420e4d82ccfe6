"""Flushes to disk what others have written, so that it survives a power failure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# The system may forget the pages of a file that it is advised to write: those of a larger one may be read soon.
ADVISED_BYTES = 2**20


def flush(path: Path) -> None:
    """Flushes one file, or the names in one folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_files(paths: Sequence[Path]) -> None:
    """Flushes files.

    The system begins to write all small ones before the first is waited for: then one wait is for nearly all.
    """
    if hasattr(os, "posix_fadvise") and len(paths) > 1:
        for path in paths:
            _begin(path)
    for path in paths:
        flush(path)


def flush_tree(path: Path) -> None:
    """Flushes all files and folders at and below `path`; not its own name in its parent."""
    found = list(os.walk(path))
    flush_files([Path(folder, name) for folder, _, files in found for name in files])
    for folder, _, _ in found:
        flush(Path(folder))


def _begin(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size <= ADVISED_BYTES:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
