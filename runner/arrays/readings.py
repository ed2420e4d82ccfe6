"""Extracts the variables of a model from a tree that was saved: the model decides between several readings. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from runner.arrays import trees

# Fields of a saved train state other than params, and names of known collections.
STATE_KEYS = frozenset({"opt_state", "step", "tx", "opt", "optimizer", "optimizer_state"})
COLLECTIONS = frozenset({"batch_stats", "cache", "LoRAParam", "intermediates"})

# The only key of a metadata box once it is saved; a module or a param may be called so, too.
BOX = "value"


def as_variables(tree: Any, expected: Any = None) -> Any:
    """Extracts the variable dict from a saved tree: variables, bare params, or a train state that contains params.

    Metadata boxes, which come back as `{"value": array}`, are unwrapped.

    Args:
      tree: Nested dicts of arrays.
      expected: The layer's variables: of several readings of `tree`, the one with most of their paths is taken. None
        takes what is usual: `params` in `params` is a train state, and a lone `value` a box.
    """
    usual = _usual(_unboxed(tree))
    if expected is None or not isinstance(tree, dict):
        return usual
    names = {trees.spell(path) for path, _ in trees.flatten(expected)}
    inner = tree.get("params")
    readings = [_usual(tree), tree, {"params": tree}, *([inner] if isinstance(inner, dict) else [])]
    named = [_unboxed_to_fit(reading, names) for reading in readings]
    counts = [sum(trees.spell(path) in names for path, _ in trees.flatten(one)) for one in named]
    return named[counts.index(max(counts))] if max(counts) else usual


def _usual(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "params" not in tree:
        known = all(isinstance(value, dict) for value in tree.values()) and tree.keys() & COLLECTIONS
        return tree if known else {"params": tree}
    inner = tree["params"]
    if isinstance(inner, dict) and set(inner) == {"params"}:
        return inner  # TrainState(params=variables)
    return {key: value for key, value in tree.items() if isinstance(value, dict) and key not in STATE_KEYS}


def _unboxed(tree: Any) -> Any:
    """`tree` without what looks like a box: a lone `value` with an array, or another box, in it."""
    if not isinstance(tree, dict):
        return tree
    inner = {key: _unboxed(child) for key, child in tree.items()}
    return inner[BOX] if set(inner) == {BOX} and not isinstance(inner[BOX], dict) else inner


def _unboxed_to_fit(tree: Any, names: Collection[str]) -> Any:
    """`tree` with boxes removed where that gives a path in `names`, or no path is in them and it looks like a box."""
    leaves = []
    for path, leaf in trees.flatten(tree):
        within = (path[:at] + path[at + 1 :] for at in reversed(range(len(path))) if path[at] == BOX)
        leaves.append((next((one for one in (path, *within) if trees.spell(one) in names), path), leaf))
    return trees.nest(leaves)
