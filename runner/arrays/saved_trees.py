"""Finds the variables in a checkpoint as people save them: train states, managers, composites, msgpack files.

A place is a folder, or one followed by names in the saved tree: `ckpt/model` is `model` in the tree at `ckpt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.arrays import checkpoint, trees
from runner.arrays.checkpoint import COLLECTIONS, STATE_KEYS, CheckpointError
from runner.errors import StorageError, listed

PARAMS = "params"
MARKERS = ("_METADATA", "manifest.ocdbt", ".zarray")

# How deep variables may be in a saved tree.
MAX_DEPTH = 4


@dataclass(frozen=True, kw_only=True)
class SavedTree:
    """A saved variable dict, as it is stored: a metadata box is `{"value": array}`.

    Attributes:
      folder: The checkpoint's folder, or its file.
      tree: All that it holds.
      root: Names from there to the variables.
      variables: The variable dict; bare params are in a dict of their own.
      is_bare: Whether they were saved as bare params.
      rest: Names beside the variables that were not taken for collections.
    """

    folder: Path
    tree: Any
    root: tuple[str, ...]
    variables: Any
    is_bare: bool = False
    rest: tuple[str, ...] = ()


def read(place: Path, collections: Iterable[str] = ()) -> SavedTree:
    """The variables at `place`.

    Args:
      place: A folder, or one followed by names in its tree.
      collections: Names of collections that a model has, besides the usual ones.

    Raises:
      StorageError: There are none, or there are several: then each is named, as it is to be typed.
    """
    folder = place
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    below = place.relative_to(folder).parts
    folder, below = _descend(folder, below)
    try:
        tree = checkpoint.restore(folder) if folder.is_dir() else _read_file(folder)
    except CheckpointError as error:
        inner = error.__cause__
        reason = f" ({type(inner).__name__} on reading)" if inner else ""
        raise StorageError(
            f"{folder} can't be read as a checkpoint{reason}: it is damaged, or no Orbax tree"
        ) from error
    for depth, name in enumerate(below):
        if not isinstance(tree, Mapping) or name not in tree:
            where = folder.joinpath(*below[:depth])
            there = listed([str(one) for one in tree], 8) if isinstance(tree, Mapping) else "no names"
            raise StorageError(f"{where} holds {there}, and no {name}", str(where))
        tree = tree[name]
    return _variables(folder, tree, below, frozenset(collections))


def _descend(folder: Path, below: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """The folder of the tree itself: of a manager's only step, of a step's only tree."""
    while folder.is_dir() and not _is_tree(folder):
        inner = [path for path in folder.iterdir() if path.is_dir() and (_is_tree(path) or _has_trees(path))]
        inner.sort(key=lambda path: (int(path.name) if path.name.isdecimal() else -1, path.name))
        if not inner:
            names = listed(sorted(path.name for path in folder.iterdir()), 8)
            raise StorageError(f"{folder} holds no checkpoint" + (f", only {names}" if names else ": it is empty"))
        if len(inner) > 1:
            what = "steps" if all(path.name.isdecimal() for path in inner) else "trees"
            names = listed([path.name for path in inner], 8)
            raise StorageError(f"{folder} holds {len(inner)} {what}: {names}", str(inner[-1]))
        if below:
            raise StorageError(f"{folder} holds {inner[0].name}, and no {below[0]}", str(inner[0]))
        folder = inner[0]
    return folder, below


def _is_tree(folder: Path) -> bool:
    return any((folder / name).exists() for name in MARKERS)


def _has_trees(folder: Path) -> bool:
    """Whether `folder` is a step of a manager: a tree is in it, or in a folder in it."""
    inner = [path for path in folder.iterdir() if path.is_dir()]
    return any(map(_is_tree, inner)) or any(
        _is_tree(deep) for path in inner for deep in path.iterdir() if deep.is_dir()
    )


def _read_file(path: Path) -> Any:
    from flax import serialization

    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except Exception as error:
        raise CheckpointError(f"restoring {path}: {type(error).__name__}: {error}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"restoring {path}: it holds no tree")
    return tree


def _variables(folder: Path, tree: Any, below: tuple[str, ...], collections: frozenset[str]) -> SavedTree:
    if not isinstance(tree, Mapping):
        raise StorageError(f"{folder.joinpath(*below)} holds a {type(tree).__name__}, not a tree of variables")
    found = _candidates(tree, collections)
    if len(found) > 1:
        places = [str(folder.joinpath(*below, *root)) for root in found]
        raise StorageError(f"{folder} holds variables {len(found)} times: {listed(places, 8)}", places[0])
    if not found:
        if not trees.flatten(tree):
            raise StorageError(f"{folder.joinpath(*below)} holds no arrays")
        return SavedTree(folder=folder, tree=tree, root=below, variables={PARAMS: tree}, is_bare=True)
    (root,) = found
    node = tree
    for name in root:
        node = node[name]
    is_state = bool(node.keys() & STATE_KEYS)
    known = COLLECTIONS | collections | {PARAMS}
    kept = {
        str(key): value
        for key, value in node.items()
        if isinstance(value, Mapping) and key not in STATE_KEYS and (not is_state or key in known)
    }
    rest = tuple(str(key) for key in node if str(key) not in kept)
    return SavedTree(folder=folder, tree=tree, root=(*below, *root), variables=kept, rest=rest)


def _candidates(tree: Mapping[str, Any], collections: frozenset[str], depth: int = 0) -> list[tuple[str, ...]]:
    """The roots of variable dicts in `tree`, outermost first; not those in an optimiser's state."""
    inner = tree.get(PARAMS)
    if isinstance(inner, Mapping):
        deeper = inner.get(PARAMS)
        # TrainState(params=variables): a whole variable dict is where its params should be.
        whole = isinstance(deeper, Mapping) and all(isinstance(value, Mapping) for value in inner.values())
        return [(PARAMS,)] if whole else [()]
    if tree and tree.keys() <= COLLECTIONS | collections and all(isinstance(one, Mapping) for one in tree.values()):
        return [()]
    if depth == MAX_DEPTH:
        return []
    return [
        (str(key), *root)
        for key, value in tree.items()
        if isinstance(value, Mapping) and key not in STATE_KEYS
        for root in _candidates(value, collections, depth + 1)
    ]


def holds_tree(folder: Path) -> bool:
    """Whether `folder` is a checkpoint, or holds some."""
    return _is_tree(folder) or _has_trees(folder)


def without_boxes(stored: Any, models: Sequence[Any]) -> Any:
    """Stored variables with plain arrays where a metadata box was saved.

    A dict whose only key is `value` is a box if a model has a leaf in its place; a parameter may be called so too.

    Args:
      stored: As Orbax restores it without a target.
      models: Variables of models, or their shapes: of the one that saved it, then of others. The first that has a leaf
        of that name decides.
    """
    boxed = boxed_paths(stored, models)
    return trees.nest((path[:-1] if path in boxed else path, leaf) for path, leaf in trees.flatten(stored))


def boxed_paths(stored: Any, models: Sequence[Any]) -> set[trees.Path]:
    """The paths of stored arrays that are in a metadata box, `…/kernel/value`; see `without_boxes`."""
    names = [{trees.spell(path) for path, _ in trees.flatten(model)} for model in models]
    return {path for path, _ in trees.flatten(stored) if len(path) > 2 and path[-1] == "value" and _is_box(path, names)}


def _is_box(path: trees.Path, models: Sequence[set[str]]) -> bool:
    for names in models:
        if trees.spell(path[:-1]) in names:
            return True
        if trees.spell(path) in names:
            return False
    last = str(path[-2])
    for names in models:  # its module may have another name there
        if any(name.endswith(f"/{last}/value") for name in names):
            return False
        if any(name.rpartition("/")[2] == last for name in names):
            return True
    return False
