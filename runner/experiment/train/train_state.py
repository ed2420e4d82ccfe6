"""The train state: flax's TrainState, saved and resumed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax.training import train_state

from runner.arrays import trees

# What a saved step contains besides the variables.
STATE_KEYS = ("step", "opt_state")


class TrainState(train_state.TrainState):
    """flax's TrainState: `params` holds the trained collections, `others` the rest."""

    others: Any


def to_tree(state: TrainState) -> dict[str, Any]:
    """The step and optimiser state as stored in a checkpoint: nested dicts of arrays (see `trees.to_save`)."""
    return plain_tree(trees.to_save(kept_arrays(state)))


def plain_tree(tree: Any) -> dict[str, Any]:
    """`tree` as nested dicts with string keys, as a checkpoint restores it."""
    plain = trees.nest((tuple(map(str, path)), leaf) for path, leaf in trees.flatten(tree))
    assert isinstance(plain, dict)
    return plain


def with_saved(state: TrainState, saved: Any) -> TrainState:
    """`state` with the step and optimiser state that `to_tree` saved; see `require_saved`."""
    filled = filled_from(kept_arrays(state), saved)
    return state.replace(step=filled["step"], opt_state=filled["opt_state"])


def filled_from(like: Any, saved: Any) -> Any:
    """The leaves of `saved` in the structure of `like`."""
    # Metadata boxes are not saved: the leaves have the same order with and without them.
    found = leaves_by_name(saved)
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in leaves_by_name(like)])


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """The leaves of `tree` by path, without metadata boxes."""
    return {"/".join(map(str, path)): leaf for path, leaf in trees.flatten(trees.unbox(tree))}


def kept_arrays(state: TrainState) -> dict[str, Any]:
    """The part of `state` that is saved besides the variables."""
    return {"step": state.step, "opt_state": state.opt_state}


def carried_over(before: Any, after: Any) -> Any:
    """The collection for the next step: as apply left it, unless its tree structure changed (sown values)."""
    plain, updated = trees.unbox(before), trees.unbox(after)
    if after is None or [path for path, _ in trees.flatten(plain)] != [path for path, _ in trees.flatten(updated)]:
        return before
    # Weights from a checkpoint have no boxes; those that the bridge returns do.
    return jax.tree.unflatten(jax.tree.structure(before), jax.tree.leaves(updated))


def not_moved(before: Any, after: Any, *, besides: tuple[str, ...] = ()) -> list[str]:
    """Paths of the floating leaves with the same bits before and after; ignores the collections in `besides`."""
    later = trees.named_arrays(trees.unbox(after))
    return [
        path
        for path, array in trees.named_arrays(trees.unbox(before)).items()
        if path.split("/")[0] not in besides
        and jnp.issubdtype(array.dtype, jnp.inexact)
        and trees.same_bits(array, later[path])
    ]
