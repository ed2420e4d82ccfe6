"""Tells the format of a checkpoint from what is in the file or folder, and opens it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runner.arrays.fast_checkpoint import TEMPORARY
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
from runner.errors import StorageError

# Enough to tell every format by.
NUM_BYTES = 64

ZIP = b"PK"
INDEX = ".safetensors.index.json"

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
    opens = (flax_bytes.is_map, easylm_stream.is_stream, safetensors_file.is_safetensors)
    try:
        refused.require_readable(start, path.suffix)
    except refused.Refusal:
        return False
    return start.startswith(ZIP) or any(is_one(start) for is_one in opens)


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
        if start.startswith(ZIP):
            name = npz_file.FORMAT
            return npz_file.read(path)
        if safetensors_file.is_safetensors(start):
            name = safetensors_file.FORMAT
            return safetensors_file.read(path)
        if easylm_stream.is_stream(start):
            name = easylm_stream.FORMAT
            return easylm_stream.read(path)
        if flax_bytes.is_map(start):
            name = flax_bytes.FORMAT
            return flax_bytes.read(path)
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
    with path.open("rb") as file:
        return file.read(NUM_BYTES)


def _require_plain(path: Path) -> None:
    """Validates that reading `path` can end.

    Raises:
      StorageError: It is a FIFO, a socket or a device.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
        kind = next((name for is_one, name in kinds if is_one(mode)), "a device")
        raise StorageError(f"{path} is {kind}, and no file or folder", "the file or folder of a checkpoint")
