"""What Orbax writes, of any version: PyTree and Standard, OCDBT or not, sharded or not, and Orbax v1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from runner.arrays import checkpoint, trees
from runner.arrays.declared_sizes import OCDBT, TooLargeError
from runner.arrays.formats.contents import Contents, DamagedError, StoredArray
from runner.arrays.formats.msgpack_bytes import as_tree

FORMAT = "Orbax"
METADATA = "_METADATA"


def is_tree(folder: Path) -> bool:
    """Whether Orbax wrote a tree right there."""
    return (folder / METADATA).is_file() or (folder / OCDBT).is_file()


def read(folder: Path) -> Contents:
    """Opens the folder.

    Raises:
      DamagedError: Orbax can't read what it says of itself.
    """
    if not (folder / METADATA).is_file():
        return _read_all(folder)
    try:
        metadata = checkpoint.tree_metadata(folder)
    except checkpoint.CheckpointError as error:
        raise _damaged(error, "Orbax can't read which arrays it holds") from error
    pairs = [(path, leaf) for path, leaf in trees.flatten(metadata) if _is_array(leaf)]
    leaves = [(tuple(map(str, path)), _stored(trees.spell(path), leaf)) for path, leaf in pairs]

    def load(wanted: Sequence[StoredArray]) -> list[np.ndarray]:
        found = checkpoint.restore_some(folder, metadata, {leaf.key for leaf in wanted})
        return [found[leaf.key] for leaf in wanted]

    return Contents(
        format=FORMAT,
        place=folder,
        tree=trees.nest(leaves),
        read=load,
        original=lambda: checkpoint.restore(folder),
        lists=frozenset(_lists(metadata)),
    )


def _damaged(error: checkpoint.CheckpointError, reason: str) -> DamagedError:
    cause = error.__cause__
    return DamagedError(str(cause) if isinstance(cause, TooLargeError) else reason)


def _read_all(folder: Path) -> Contents:
    """A folder of an old version, which does not say what is in it."""
    try:
        tree = checkpoint.restore(folder)
    except checkpoint.CheckpointError as error:
        raise _damaged(error, f"it has no {METADATA}, and Orbax can't read it without") from error
    arrays = jax.tree.map(lambda leaf: _in_memory(np.asarray(leaf)), tree)
    return Contents(format=FORMAT, place=folder, tree=as_tree(arrays), original=lambda: tree)


def _in_memory(array: np.ndarray) -> StoredArray:
    return StoredArray(shape=array.shape, dtype=array.dtype, read=lambda: array)


def _lists(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(node, (list, tuple)):
        yield path
        node = dict(enumerate(node))
    for key, child in node.items() if isinstance(node, Mapping) else ():
        yield from _lists(child, (*path, str(key)))


def _is_array(leaf: Any) -> bool:
    return getattr(leaf, "shape", None) is not None and getattr(leaf, "dtype", None) is not None


def _stored(name: str, leaf: Any) -> StoredArray:
    return StoredArray(shape=tuple(leaf.shape), dtype=leaf.dtype, key=name)
