"""Tells the format of a checkpoint from what is in the file or folder, and opens it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.arrays.formats import (
    easylm_stream,
    flax_bytes,
    npz_file,
    orbax_folder,
    refused,
    safetensors_file,
    t5x_folder,
    zarr_arrays,
)
from runner.arrays.formats.contents import Contents, DamagedError, damaged
from runner.arrays.host_saves import TEMPORARY
from runner.errors import StorageError
from runner.records.disk import plain_files

# Enough to tell every format by.
NUM_BYTES = 64

INDEX = ".safetensors.index.json"

# Formats of one file, in the order in which they are tried: how each begins, and who reads it.
FILES: tuple[tuple[Callable[[bytes], bool], Any], ...] = (
    (npz_file.is_zip, npz_file),
    (safetensors_file.is_safetensors, safetensors_file),
    (easylm_stream.is_stream, easylm_stream),
    (flax_bytes.is_map, flax_bytes),
)

FORMATS = (
    "Orbax folders, flax msgpack, EasyLM's streams, T5X folders, npz, safetensors, and folders of tensorstore's arrays"
)


def is_tree(folder: Path) -> bool:
    """Whether a checkpoint of one tree is right in this folder."""
    return (
        orbax_folder.is_tree(folder)
        or t5x_folder.is_t5x(folder)
        or _index(folder) is not None
        or zarr_arrays.holds_arrays(folder)
    )


def is_checkpoint_file(path: Path) -> bool:
    """Whether the file begins as a checkpoint does."""
    start = _start(path)
    try:
        refused.require_readable(start, path.suffix)
    except refused.Refusal:
        return False
    return any(is_one(start) for is_one, _ in FILES)


def open_file(path: Path) -> Contents:
    """Opens a checkpoint in one file.

    Raises:
      StorageError: It is a pickle, damaged, of no known format, or no plain file.
    """
    _require_plain(path)
    if path.name == t5x_folder.FILE and t5x_folder.is_t5x(path.parent):
        return open_tree(path.parent)
    start = _start(path)
    if not start:
        raise StorageError(f"{path} is an empty file")
    name = "of no format that is known"
    try:
        refused.require_readable(start, path.suffix)
        for is_one, kind in FILES:
            if is_one(start):
                name = kind.FORMAT
                return kind.read(path)
    except refused.Refusal as refusal:
        raise StorageError(f"{path} is {refusal}", _readable()) from refusal
    except DamagedError as error:
        raise damaged(path, name, error) from error
    raise StorageError(f"{path} is no checkpoint of a format that is known: there are {FORMATS}")


def open_tree(folder: Path) -> Contents:
    """Opens a checkpoint of one tree, in a folder.

    Raises:
      StorageError: It is damaged, or the save that made it never ended.
    """
    if TEMPORARY in folder.name:
        raise StorageError(f"{folder} is no checkpoint: the save that made it never ended")
    name = orbax_folder.FORMAT
    try:
        if orbax_folder.is_tree(folder):
            return orbax_folder.read(folder)
        if t5x_folder.is_t5x(folder):
            name = t5x_folder.FORMAT
            return t5x_folder.read(folder)
        if (index := _index(folder)) is not None:
            name = safetensors_file.FORMAT
            return safetensors_file.read_shards(index)
        name = zarr_arrays.FORMAT
        return zarr_arrays.read(folder)
    except DamagedError as error:
        raise damaged(folder, name, error) from error


def _readable() -> str:
    return f"another file: there are {FORMATS}"


def _index(folder: Path) -> Path | None:
    return next((path for path in folder.iterdir() if path.name.endswith(INDEX)), None)


def _start(path: Path) -> bytes:
    with plain_files.opened(path) as file:
        return file.read(NUM_BYTES)


def _require_plain(path: Path) -> None:
    """Validates that reading `path` can end.

    Raises:
      StorageError: It is a FIFO, a socket or a device.
    """
    kind = plain_files.kind_of(os.stat(path).st_mode)
    if kind is not None:
        raise StorageError(f"{path} is {kind}, and no file or folder", "the file or folder of a checkpoint")
