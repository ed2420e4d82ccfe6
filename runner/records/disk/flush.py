"""Flushes to disk what others have written, so that it survives a power failure."""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Flushes one file, or the names in one folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(path: Path) -> None:
    """Flushes all files and folders at and below `path`; not its own name in its parent."""
    for folder, _, files in os.walk(path):
        for name in ("", *files):
            flush(Path(folder, name))
