"""What T5X's `Checkpointer` writes: a file `checkpoint` with the tree, and a folder for every array.

The tree is a flax msgpack; where an array would be, it has what tensorstore needs to open it. Older versions of Orbax
wrote the same with placeholders for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.arrays.formats import flax_bytes, zarr_arrays
from runner.arrays.formats.contents import Contents, DamagedError, Placeholder, StoredArray
from runner.arrays.formats.msgpack_bytes import as_tree
from runner.records.disk import plain_files

FORMAT = "T5X"
FILE = "checkpoint"

# All but the version is in here.
WHOLE = "optimizer"


def is_t5x(folder: Path) -> bool:
    """Whether the folder has a file `checkpoint` with a msgpack map; TensorFlow's file of that name is text."""
    file = folder / FILE
    if not file.is_file():
        return False
    with plain_files.opened(file) as opened:
        return flax_bytes.is_map(opened.read(1))


def read(folder: Path) -> Contents:
    """Opens the folder.

    Raises:
      DamagedError: Its file `checkpoint`, or the description of an array, can't be read.
    """
    found = flax_bytes.value(folder / FILE)
    if not isinstance(found, dict):
        raise DamagedError(f"{FILE} holds no tree")
    tree = found.get(WHOLE) if "version" in found else None
    return Contents(format=FORMAT, place=folder, tree=as_tree(_resolved(folder, tree or found)), read=_read)


def _read(leaves: Sequence[StoredArray]) -> list[np.ndarray]:
    """Small arrays are in the msgpack file, the others in folders of their own."""
    inside = {id(leaf): leaf.read() for leaf in leaves if leaf.read is not None}
    outside = [leaf for leaf in leaves if leaf.read is None]
    arrays = inside | dict(zip(map(id, outside), zarr_arrays.read_arrays(outside), strict=True))
    return [arrays[id(leaf)] for leaf in leaves]


def _resolved(folder: Path, node: Any) -> Any:
    """`node` with the arrays that specs and placeholders stand for."""
    if isinstance(node, Placeholder):
        return _array(folder, node.name)
    if isinstance(node, list):
        return [_resolved(folder, item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("driver"), str) and isinstance(node.get("kvstore"), dict):
        # Older tensorstores have the path outside; it may be on another machine, and its last name is the array's.
        path = node["kvstore"].get("path") or node.get("path") or ""
        return _array(folder, str(path).rstrip("/").rpartition("/")[2])
    return {key: _resolved(folder, item) for key, item in node.items()}


def _array(folder: Path, name: str) -> StoredArray | Placeholder:
    there = folder / name
    return zarr_arrays.stored(there) if name and zarr_arrays.is_array(there) else Placeholder(name)
