"""The declared sizes of stored arrays: checked before they are read, since TensorStore ends the process at too much."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from runner.records.disk import plain_files
from runner.timing import memory

# The files that describe an array of zarr 2 and 3.
DESCRIPTIONS = (".zarray", "zarr.json")

# The file by which a folder is a database of tensorstore, with the arrays in it.
OCDBT = "manifest.ocdbt"


class TooLargeError(Exception):
    """More bytes than there are; the message has both numbers."""


def require_room(arrays: Iterable[tuple[Sequence[int], np.dtype]]) -> None:
    """Checks that arrays fit into the memory that is free.

    Args:
      arrays: Their shapes and element types.

    Raises:
      TooLargeError: They don't.
    """
    _require(sum(_num_bytes(shape, dtype.itemsize) for shape, dtype in arrays), "its arrays")


def require_folder(folder: Path, *, whole: bool = True) -> None:
    """Checks the arrays in a folder, of zarr 2 and 3, by what their files say; what says nothing is left to its reader.

    Args:
      folder: The folder, with those in it.
      whole: Whether all are read at once; if not, only a chunk of each.

    Raises:
      TooLargeError: They do not fit into the memory that is free.
    """
    found = [json_of(path) for name in DESCRIPTIONS for path in folder.rglob(name) if path.is_file()]
    found += _in_database(folder)
    sizes = [size for one in found if (size := _declared(one)) is not None]
    if whole:
        _require(sum(array for array, _ in sizes), "its arrays")
    _require(max((chunk for _, chunk in sizes), default=0), "a chunk of an array")


def _in_database(folder: Path) -> list[Any]:
    """The descriptions in the OCDBT database of a folder, where they are no files; none where it can't be read."""
    if not (folder / OCDBT).is_file():
        return []
    import tensorstore

    try:
        store = tensorstore.KvStore.open(
            {"driver": "ocdbt", "base": f"file://{quote(str(folder.absolute()))}/"}
        ).result()
        keys = [key for key in store.list().result() if key.decode(errors="replace").split("/")[-1] in DESCRIPTIONS]
        return [_parsed(read.result().value) for read in [store.read(key) for key in keys]]
    except ValueError:  # is left to who reads it
        return []


def json_of(path: Path) -> Any:
    """What a file holds as JSON; None if that can't be read."""
    try:
        return _parsed(plain_files.read_bytes(path))
    except OSError:
        return None


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _declared(found: Any) -> tuple[int, int] | None:
    """Bytes of an array and of a chunk; None where this is no description of an array."""
    try:
        grid = found["chunk_grid"]["configuration"]["chunk_shape"] if "chunk_grid" in found else found["chunks"]
        name = found["data_type"] if "data_type" in found else found["dtype"]
        return _num_bytes(found["shape"], _itemsize(name)), _num_bytes(grid, _itemsize(name))
    except (KeyError, TypeError, IndexError):
        return None


def _num_bytes(shape: Sequence[int], itemsize: int) -> int:
    if not all(type(size) is int and size >= 0 for size in shape):
        raise TypeError("no shape")
    return math.prod(shape) * itemsize


def _itemsize(name: Any) -> int:
    try:
        return np.dtype(name).itemsize
    except (TypeError, ValueError):
        return 1  # of an element type of ml_dtypes, at least


def _require(wanted: int, what: str) -> None:
    free = memory.free_bytes()
    if free is not None and wanted > free:
        raise TooLargeError(f"{what} would take {wanted:,} bytes, and {free:,} of memory are free")
