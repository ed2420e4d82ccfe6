"""Checkpoints as people save them are read, or what is in them is listed as it is to be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from flax.training import train_state

from runner.arrays import saved_trees
from runner.errors import StorageError

VARIABLES = {
    "params": {"dense": {"kernel": np.ones((2, 3), np.float32)}},
    "batch_stats": {"norm": {"mean": np.zeros(3, np.float32)}},
}
SHAPES = jax.tree.map(np.shape, VARIABLES)


class State(train_state.TrainState):
    batch_stats: Any = None
    ema_params: Any = None


def state(**fields: Any) -> Any:
    return State.create(apply_fn=lambda: None, tx=optax.adam(1e-3), **fields)


SPLIT = {"params": VARIABLES["params"], "batch_stats": VARIABLES["batch_stats"]}


def save(tree: Any, path: Path) -> None:
    ocp.PyTreeCheckpointer().save(path.absolute(), tree)


def manage(path: Path, steps: list[int], **items: Any) -> None:
    with ocp.CheckpointManager(path.absolute()) as manager:
        for step in steps:
            manager.save(step, args=ocp.args.Composite(**items) if items else ocp.args.StandardSave(VARIABLES))
        manager.wait_until_finished()


@pytest.mark.parametrize(
    ("tree", "root"),
    [
        (VARIABLES, ()),
        (state(**SPLIT), ()),
        (state(**SPLIT, ema_params=VARIABLES["params"]), ()),
        (state(params=VARIABLES), ("params",)),
        ({"model": state(**SPLIT), "config": {"dims": np.array([1, 2])}, "data": [np.ones(3)]}, ("model",)),
        ({"agent": {"policy": VARIABLES}}, ("agent", "policy")),
    ],
)
def test_variables_are_found_in_saved_trees(here, tree, root):
    save(tree, here / "ck")
    found = saved_trees.read(here / "ck")
    assert (jax.tree.map(np.shape, found.variables), found.root, found.is_bare) == (SHAPES, root, False)
    assert saved_trees.read(f"ck#{'/'.join(root)}").root == root


def test_bare_params_are_read_as_params(here):
    save(VARIABLES["params"], here / "ck")
    found = saved_trees.read(here / "ck")
    assert (jax.tree.map(np.shape, found.variables), found.is_bare) == ({"params": SHAPES["params"]}, True)


def test_other_train_state_entries_are_listed(here):
    save(state(**SPLIT, ema_params=VARIABLES["params"]), here / "ck")
    assert saved_trees.read(here / "ck").rest == ("ema_params", "opt_state", "step")


def test_model_collections_are_kept(here):
    save({**VARIABLES, "step": np.array(3), "Counter": {"num": np.ones(1)}}, here / "ck")
    assert "Counter" not in saved_trees.read(here / "ck").variables
    assert "Counter" in saved_trees.read(here / "ck", ["Counter"]).variables


def test_integer_keys_and_lists_are_read(here):
    save({**VARIABLES, "norms": {0: np.ones(2), 1: np.zeros(2)}}, here / "ck")
    assert set(saved_trees.read(here / "ck").variables["norms"]) == {"0", "1"}


def test_a_checkpoint_manager_step_is_read(here):
    manage(here / "one", [3])
    assert jax.tree.map(np.shape, saved_trees.read(here / "one").variables) == SHAPES
    assert jax.tree.map(np.shape, saved_trees.read(here / "one" / "3").variables) == SHAPES


def test_composite_checkpoints_are_read(here):
    items = {"state": ocp.args.StandardSave(state(**SPLIT)), "extra": ocp.args.JsonSave({"epoch": 3})}
    manage(here / "ck", [7], **items)
    for place in ("ck", "ck/7", "ck/7/state"):
        assert jax.tree.map(np.shape, saved_trees.read(here / place).variables) == SHAPES


def test_a_msgpack_file_is_read(here):
    (here / "ck.msgpack").write_bytes(serialization.to_bytes(state(params=VARIABLES)))
    assert jax.tree.map(np.shape, saved_trees.read(here / "ck.msgpack").variables) == SHAPES


@pytest.fixture
def several(here):
    manage(here / "manager", [5, 10])
    both = {"policy": ocp.args.StandardSave(VARIABLES), "value": ocp.args.StandardSave(VARIABLES)}
    manage(here / "composite", [7], **both)
    save({"actor": state(**SPLIT), "critic": state(**SPLIT)}, here / "two")
    (here / "empty").mkdir()
    (here / "other").mkdir()
    (here / "other" / "notes.txt").write_text("no checkpoint")
    (here / "damaged").mkdir()
    (here / "damaged" / "_METADATA").write_text("{")
    (here / "text.msgpack").write_bytes(b"no msgpack")
    return here


@pytest.mark.parametrize(
    ("place", "said", "typed"),
    [
        ("manager/99", "there is no file or folder manager/99", "manager/10"),
        (
            "composite",
            "composite/7 holds 2 trees of variables: composite/7#policy, composite/7#value",
            "composite/7#policy",
        ),
        ("two", "two holds 2 trees of variables: two#actor, two#critic", "two#actor"),
        ("two#nix", "two holds actor, critic, and no nix", "two#actor"),
        ("two/critic", "there is no file or folder two/critic: names in a tree follow a #", "two#critic"),
        ("empty", "empty holds no checkpoint: it is empty", None),
        ("other", "other holds no checkpoint, only notes.txt; there are .*", None),
        ("damaged", r"damaged is a damaged checkpoint \(Orbax\): Orbax can't read which arrays it holds", None),
        ("text.msgpack", r"text.msgpack is no checkpoint of a format that is known: there are .*", None),
    ],
)
def test_unreadable_checkpoints_explain_what_exists(several, place, said, typed):
    with pytest.raises(StorageError, match=f"^{said}\\.") as raised:
        saved_trees.read(place)
    assert raised.value.suggestion == typed
    if typed is not None:
        assert jax.tree.map(np.shape, saved_trees.read(typed).variables) == SHAPES


def test_boxes_differ_from_parameters_named_value():
    boxed = {"params": {"dense": {"kernel": {"value": np.ones(2)}}, "scale": {"value": np.ones(3)}}}
    model = {"params": {"dense": {"kernel": np.ones(2)}, "scale": {"value": np.ones(3)}}}
    assert jax.tree.map(np.shape, saved_trees.without_boxes(boxed, [model])) == jax.tree.map(np.shape, model)


def test_boxes_are_recognised_in_renamed_modules():
    boxed = {"params": {"Dense_2": {"kernel": {"value": np.ones(2)}}, "Scale_1": {"value": np.ones(3)}}}
    model = {"params": {"Dense_1": {"kernel": np.ones(2)}, "Scale_0": {"value": np.ones(3)}}}
    found = saved_trees.without_boxes(boxed, [model])
    assert jax.tree.map(np.shape, found) == {"params": {"Dense_2": {"kernel": (2,)}, "Scale_1": {"value": (3,)}}}


def test_without_a_model_nothing_is_unboxed():
    boxed = {"params": {"kernel": {"value": np.ones(2)}}}
    assert saved_trees.without_boxes(boxed, []) == boxed
