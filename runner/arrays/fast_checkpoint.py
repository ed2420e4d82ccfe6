"""Clones Orbax checkpoints of the same structure, without Orbax's Python overhead for each.

Orbax writes the first checkpoint of each structure (paths, shapes, element types). Its files are read back, and if
every leaf lies in one chunk file that is exactly its bytes, the next checkpoints are the same files with new chunks,
timestamps and path. The format is never hard-coded here: a new Orbax version yields a new template, or one that
fails the check, and then Orbax writes them all. Opt-in with `checkpoint=fast`; a test compares both writers' folders
byte for byte.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

Leaves = Sequence[tuple[str, np.ndarray]]
Signature = tuple[tuple[str, tuple[int, ...], str], ...]

TIMESTAMPS = ("init_timestamp_nsecs", "commit_timestamp_nsecs")
STAMPED = "_CHECKPOINT_METADATA"

# For a larger tree, the writing itself dominates, and a template would hold all of it in memory.
MAX_CLONED_BYTES = 16 * 2**20

# Templates cached; a sweep runs program by program, so that few are in use at once.
MAX_TEMPLATES = 64

TEMPORARY = ".orbax-checkpoint-tmp"


class CloneWriter:
    """Saves checkpoints from templates."""

    def __init__(self) -> None:
        self._templates: dict[Signature, _Template | None] = {}

    def save(self, leaves: Leaves, path: Path, by_orbax: Callable[[], None]) -> bool:
        """Saves `leaves` at `path`.

        Args:
          leaves: Dotted path and array of every leaf.
          path: A folder that does not exist yet.
          by_orbax: Saves the same leaves at the same path with Orbax.

        Returns:
          Whether the checkpoint is a clone.
        """
        if sum(array.nbytes for _, array in leaves) > MAX_CLONED_BYTES:
            by_orbax()
            return False
        signature = tuple((name, array.shape, array.dtype.str + array.dtype.name) for name, array in leaves)
        template = self._templates.get(signature)
        if template is not None:
            template.write(leaves, path)
            return True
        by_orbax()
        if signature not in self._templates:
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.pop(next(iter(self._templates)))
            self._templates[signature] = _learn(leaves, path)
        return False


class _Template:
    """The files of one checkpoint: fixed ones, and the chunk of every leaf."""

    def __init__(self, fixed: Mapping[str, bytes], chunks: Mapping[str, str], origin: Path) -> None:
        self._fixed = fixed
        self._chunks = chunks
        self._origin = str(origin).encode()
        self._folders = sorted({os.path.dirname(name) for name in (*fixed, *chunks.values())} - {""})

    def write(self, leaves: Leaves, path: Path) -> None:
        started = time.time_ns()
        # Strings, not Path: building paths would take longer than writing.
        temporary = f"{path}{TEMPORARY}"
        os.mkdir(temporary)
        for folder in self._folders:
            os.makedirs(f"{temporary}/{folder}", exist_ok=True)
        for name, array in leaves:
            _write(f"{temporary}/{self._chunks[name]}", array.tobytes())
        for name, content in self._fixed.items():
            if name == STAMPED:
                content = _stamped(content, started)
            _write(f"{temporary}/{name}", content.replace(self._origin, str(path).encode()))
        for folder in ("", *self._folders):
            _sync(f"{temporary}/{folder}")
        os.rename(temporary, path)
        _sync(str(path.parent))


def _learn(leaves: Leaves, path: Path) -> _Template | None:
    """Builds a template from the checkpoint at `path`; None if its files can't be cloned."""
    files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    chunks = {}
    for name, array in leaves:
        own = [file for file in files if os.path.dirname(file) == name and not os.path.basename(file).startswith(".")]
        if len(own) != 1 or files[own[0]] != array.tobytes():
            return None
        chunks[name] = own[0]
    fixed = {name: content for name, content in files.items() if name not in set(chunks.values())}
    try:
        _stamped(fixed[STAMPED], 0)
    except (KeyError, ValueError):
        return None
    return _Template(fixed, chunks, path) if len(set(chunks.values())) == len(leaves) else None


def _stamped(content: bytes, started: int) -> bytes:
    """Orbax's metadata with this checkpoint's timestamps."""
    metadata = json.loads(content)
    for name, moment in zip(TIMESTAMPS, (started, time.time_ns()), strict=True):
        if not isinstance(metadata.get(name), int):
            raise ValueError(f"{STAMPED} has no {name}")
        metadata[name] = moment
    return json.dumps(metadata).encode()


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
