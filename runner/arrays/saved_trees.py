"""Finds the variables in a checkpoint as people save them: train states, bare params, tuples, one tree in another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.arrays import trees
from runner.arrays.formats import places
from runner.arrays.formats.contents import Contents
from runner.arrays.readings import COLLECTIONS, STATE_KEYS
from runner.errors import StorageError, listed, nearest

PARAMS = "params"

# T5X, and Flax's old optimisers, have the params here, next to what the optimiser keeps.
TARGET = "target"
OPTIMIZER_STATE = frozenset({"state", "flax_mutables"})

# Fields of train states that hold all collections but params: of T5X, Kauldron and Scenic.
FIELDS = ("flax_mutables", "collections", "model_state")

# Other fields of train states: names that no model gives to a collection.
OTHERS = frozenset({"extra", "ema_params", "rng", "rngs", "config", "data", "metrics", "metadata"})

# How deep variables may be in a saved tree.
MAX_DEPTH = 4

# The most names that a message has of what is in a tree.
MAX_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class SavedTree:
    """A saved variable dict, as it is stored: a metadata box is `{"value": array}`.

    Attributes:
      contents: The checkpoint that it is in.
      root: Names from there to the variables.
      variables: The variable dict with NumPy leaves; bare params are in a dict of their own.
      is_bare: Whether they were saved as bare params.
      rest: Names next to the variables that were not taken for collections.
    """

    contents: Contents
    root: tuple[str, ...]
    variables: Any
    is_bare: bool = False
    rest: tuple[str, ...] = ()

    @property
    def others(self) -> list[str]:
        """Names in the checkpoint of what is not in the variables, such as an optimizer's state."""
        top = follow(self.contents, ()) if self.root else {}
        return [*map(str, self.rest), *(str(key) for key in top if str(key) != str(self.root[0]))]

    @property
    def folder(self) -> Path:
        """The folder or file of the checkpoint: of a root of steps, that of the step."""
        return self.contents.place

    @property
    def where(self) -> str:
        """How these variables are typed."""
        return places.spelled(self.folder, self.root)


def read(place: Path | str, collections: Iterable[str] | None = ()) -> SavedTree:
    """The variables at `place`; of what is next to them, such as an optimiser's state, nothing is read.

    Args:
      place: A file or folder, or one followed by `#` and names in its tree.
      collections: Names of collections that a model has, besides the usual ones; None takes every name for one.

    Raises:
      StorageError: There are none, or there are several: then each is named, as it is to be typed.
    """
    return find(*places.open_place(place), collections)


def find(contents: Contents, names: Sequence[str], collections: Iterable[str] | None = ()) -> SavedTree:
    """The variables at `names` in an open checkpoint; see `read`."""
    names = tuple(names)
    node = follow(contents, names)
    known = None if collections is None else COLLECTIONS | frozenset(collections) | {PARAMS}
    roots = _candidates(node, known or COLLECTIONS)
    if len(roots) > 1:
        raise _several(contents, names, node, roots)
    if not roots:
        _require_bare(contents, names, node)
        return SavedTree(contents=contents, root=names, variables={PARAMS: contents.load(node)}, is_bare=True)
    root = (*names, *roots[0])
    whole = follow(contents, root)
    lists = {path[-1] for path in contents.lists if path and path[:-1] == root}
    params, found = _collections({key: value for key, value in whole.items() if key not in lists}, known)
    rest = tuple(key for key in whole if key not in found and key not in params)
    # Params that have another name are bare: `target`.
    return SavedTree(
        contents=contents,
        root=(*root, *params),
        variables=contents.load(found),
        is_bare=bool(params),
        rest=rest,
    )


def follow(contents: Contents, names: Sequence[str]) -> Any:
    """What is at `names` in the tree.

    Raises:
      StorageError: A name is not there, or an array is.
    """
    node = contents.tree
    for depth, name in enumerate(names):
        if not isinstance(node, Mapping) or name not in node:
            where = places.spelled(contents.place, names[:depth])
            there = list(node) if isinstance(node, Mapping) else []
            held = listed(there, MAX_NAMED) if there else "an array"
            near = nearest(name, there) or next((one for one in there if isinstance(node[one], Mapping)), None)
            typed = [*names[:depth], near] if near else names[:depth]
            raise StorageError(f"{where} holds {held}, and no {name}", places.spelled(contents.place, typed))
        node = node[name]
    if not isinstance(node, Mapping):
        raise StorageError(f"{places.spelled(contents.place, names)} holds an array, not a tree of variables")
    return node


def _collections(node: Mapping[str, Any], known: frozenset[str] | None) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The name of the params if it is not `params`, and the collections of a variable dict or train state."""
    extra = {name: tree for key in FIELDS if _is_tree(node.get(key)) for name, tree in node[key].items()}
    if _is_old_optimizer(node):
        return (TARGET,), {PARAMS: node[TARGET], **extra}
    is_state = bool(node.keys() & STATE_KEYS)
    found = {
        key: value
        for key, value in node.items()
        if isinstance(value, Mapping)
        and key not in STATE_KEYS
        and not (key in FIELDS and is_state)
        and (not is_state or (key in known if known is not None else key not in OTHERS))
    }
    return (), {**found, **extra} if is_state else found


def _is_tree(node: Any) -> bool:
    return isinstance(node, Mapping) and all(isinstance(value, Mapping) for value in node.values())


def _is_old_optimizer(node: Mapping[str, Any]) -> bool:
    return isinstance(node.get(TARGET), Mapping) and PARAMS not in node and bool(node.keys() & OPTIMIZER_STATE)


def _candidates(tree: Mapping[str, Any], collections: frozenset[str], depth: int = 0) -> list[tuple[str, ...]]:
    """The roots of variable dicts in `tree`, outermost first; not those in an optimiser's state."""
    inner = tree.get(PARAMS)
    if isinstance(inner, Mapping):
        # TrainState(params=variables): a whole variable dict is where its params should be.
        whole = isinstance(inner.get(PARAMS), Mapping) and _is_tree(inner)
        return [(PARAMS,)] if whole else [()]
    if _is_old_optimizer(tree):
        whole = isinstance(tree[TARGET].get(PARAMS), Mapping)
        return [(TARGET,)] if whole else [()]
    if tree and tree.keys() <= collections and _is_tree(tree):
        return [()]
    if depth == MAX_DEPTH:
        return []
    return [
        (key, *root)
        for key, value in tree.items()
        if isinstance(value, Mapping) and (key not in STATE_KEYS or _is_old_optimizer(value))
        for root in _candidates(value, collections, depth + 1)
    ]


def _several(
    contents: Contents, names: tuple[str, ...], node: Mapping[str, Any], roots: Sequence[tuple[str, ...]]
) -> StorageError:
    typed = [places.spelled(contents.place, (*names, *root)) for root in roots]
    others = [_described(key, value) for key, value in node.items() if key not in {root[0] for root in roots if root}]
    more = f"; the others in it are {listed(others, MAX_NAMED)}" if others else ""
    where = places.spelled(contents.place, names)
    return StorageError(f"{where} holds {len(roots)} trees of variables: {listed(typed, MAX_NAMED)}{more}", typed[0])


def _described(key: str, value: Any) -> str:
    return f"{key} ({listed(list(value))})" if isinstance(value, Mapping) else key


def _require_bare(contents: Contents, names: tuple[str, ...], node: Mapping[str, Any]) -> None:
    """Validates that a tree without `params` can be bare params.

    Raises:
      StorageError: It has no arrays, or it is a train state or a list of trees, and none of them has variables.
    """
    where = places.spelled(contents.place, names)
    if not trees.flatten(node):
        raise StorageError(f"{where} holds no arrays")
    if names not in contents.lists and "opt_state" not in node:
        return
    members = [key for key, value in node.items() if isinstance(value, Mapping)]
    held = listed([_described(key, value) for key, value in node.items()], MAX_NAMED)
    typed = places.spelled(contents.place, (*names, members[0])) if members else None
    raise StorageError(f"{where} holds {held}: none of them is called params", typed)


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
