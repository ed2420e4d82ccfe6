"""Tries what a pipeline does to read a checkpoint into a target: Orbax's two ways, and Flax's bytes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from runner.arrays.formats import orbax_folder
from runner.arrays.saved_trees import PARAMS, SavedTree

WAYS = ("restore(item=…)", "StandardCheckpointer", "from_bytes")


def restoring(saved: SavedTree, target: Any) -> dict[str, bool]:
    """Which of `WAYS` restore the saved variables into `target`, each tried.

    Args:
      saved: The checkpoint; of a msgpack file, only bytes are tried.
      target: Variables with NumPy leaves, in their boxes.
    """
    contents = saved.contents
    stored = contents.load(contents.tree) if contents.original is None else contents.original()
    whole = _put(stored, saved.root, target[PARAMS] if saved.is_bare else target)
    ways: Mapping[str, Callable[[Any, Any], Any]] = dict(zip(WAYS, (_by_item, _by_standard, _by_bytes), strict=True))
    by_orbax = contents.format == orbax_folder.FORMAT and contents.original is not None
    return {
        name: _works(way, stored if name == WAYS[2] else saved.folder.absolute(), whole)
        for name, way in ways.items()
        if by_orbax or name == WAYS[2]
    }


def _works(way: Callable[[Any, Any], Any], saved: Any, target: Any) -> bool:
    try:
        with _quiet():
            found = way(saved, target)
    except Exception:  # noqa: BLE001 - Orbax raises half a dozen unrelated types
        return False
    # Flax's bytes put a dict where an array should be, without a word.
    same = bool(jax.tree.structure(found) == jax.tree.structure(target))  # type: ignore[operator]
    return same and all(map(_are_alike, jax.tree.leaves(found), jax.tree.leaves(target)))


def _are_alike(one: Any, two: Any) -> bool:
    return np.shape(one) == np.shape(two)


def _by_item(folder: Path, target: Any) -> Any:
    import orbax.checkpoint as ocp

    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    return ocp.PyTreeCheckpointer().restore(folder, item=target, restore_args=args)


def _by_standard(folder: Path, target: Any) -> Any:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder, target)


def _by_bytes(stored: Any, target: Any) -> Any:
    from flax import serialization

    return serialization.from_bytes(target, serialization.to_bytes(stored))


def _put(tree: Any, root: tuple[str, ...], value: Any) -> Any:
    """`tree` with the collections of `value` at `root`; what is next to them stays."""
    if root and isinstance(tree, (list, tuple)):
        return [_put(item, root[1:], value) if str(index) == root[0] else item for index, item in enumerate(tree)]
    if root:
        return {**tree, root[0]: _put(tree[root[0]], root[1:], value)}
    return {**tree, **value}


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
