"""The state of a training: flax's TrainState, saved and resumed."""

from __future__ import annotations

from typing import Any

import jax
from flax.training import train_state

from runner.arrays import trees

# What a saved step has beside the variables.
STATE_KEYS = ("step", "opt_state")


class TrainState(train_state.TrainState):
    """flax's, its params being the collections that are trained, with the other collections beside them."""

    others: Any


def to_tree(state: TrainState) -> dict[str, Any]:
    """The step and the optimiser's state, as a checkpoint keeps them: nested dicts of arrays (see `trees.to_save`)."""
    return plain_tree(trees.to_save(kept_arrays(state)))


def plain_tree(tree: Any) -> dict[str, Any]:
    """`tree` as nested dicts, every key a text, as a checkpoint gives it back."""
    plain = trees.nest((tuple(map(str, path)), leaf) for path, leaf in trees.flatten(tree))
    assert isinstance(plain, dict)
    return plain


def with_saved(state: TrainState, saved: Any) -> TrainState:
    """`state` with the step and the optimiser's state that `to_tree` kept; see `require_saved`."""
    filled = filled_from(kept_arrays(state), saved)
    return state.replace(step=filled["step"], opt_state=filled["opt_state"])


def filled_from(like: Any, saved: Any) -> Any:
    """The leaves of `saved` in the structure of `like`."""
    # Boxes of metadata are not kept: the leaves come in the same order with and without them.
    found = leaves_by_name(saved)
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in leaves_by_name(like)])


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """The leaves of `tree` by their paths, out of their boxes of metadata."""
    return {"/".join(map(str, path)): leaf for path, leaf in trees.flatten(trees.unbox(tree))}


def kept_arrays(state: TrainState) -> dict[str, Any]:
    """What of `state` is saved beside the variables."""
    return {"step": state.step, "opt_state": state.opt_state}


def carried_over(before: Any, after: Any) -> Any:
    """What the next step gets of a collection: as apply left it, unless it has become another tree (values sown)."""
    plain, updated = trees.unbox(before), trees.unbox(after)
    if after is None or [path for path, _ in trees.flatten(plain)] != [path for path, _ in trees.flatten(updated)]:
        return before
    # Weights from a checkpoint have no boxes, what the bridge gives back has.
    return jax.tree.unflatten(jax.tree.structure(before), jax.tree.leaves(updated))
