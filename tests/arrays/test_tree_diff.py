"""Two trees of variables: what is the same, missing, extra, moved, reshaped, cast."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from runner.arrays import tree_diff
from runner.arrays.tree_diff import Kind, LeafDiff, diff_trees


def leaf(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.dtype(dtype))


def changed(old, new, **options) -> list[LeafDiff]:
    return [item for item in diff_trees(old, new, **options).leaves if item.kind is not Kind.same]


def test_integer_keys_equal_their_spelling():
    old = {"params": {"layers": {"0": {"kernel": leaf(4, 8)}}}}
    new = {"params": {"layers": {0: {"kernel": leaf(4, 8)}}}}
    assert changed(old, new) == []


def test_missing_leaves_name_the_nearest():
    found = changed({"params": {"kernal": leaf(4, 8)}}, {"params": {"kernel": leaf(4, 9)}})
    assert found == [
        LeafDiff(kind="missing", new="params/kernel", wanted="float32[4,9]", nearest="params/kernal"),
        LeafDiff(kind="extra", old="params/kernal", was="float32[4,8]", nearest="params/kernel"),
    ]


@pytest.mark.parametrize(
    ("old", "kind"), [(leaf(4, 8, dtype="bfloat16"), "cast"), (leaf(8, 4), "reshaped"), (leaf(4), "reshaped")]
)
def test_reshaped_and_cast_leaves_are_named(old, kind):
    (found,) = changed({"params": {"kernel": old}}, {"params": {"kernel": leaf(4, 8)}})
    assert (found.kind, found.was, found.wanted) == (kind, tree_diff.kind(old), "float32[4,8]")


def test_a_leaf_in_another_collection_has_moved():
    (found,) = changed({"LoRAParam": {"lora_a": leaf(4, 2)}}, {"params": {"lora_a": leaf(4, 2)}})
    assert (found.kind, found.old, found.new) == ("moved", "LoRAParam/lora_a", "params/lora_a")


def test_bits_tell_apart_what_shapes_do_not():
    a, b = np.arange(4.0), np.arange(4.0) + 1
    old = {"params": {"one": {"kernel": a}, "two": {"kernel": b}}}
    new = {"params": {"first": {"kernel": b}, "second": {"kernel": a}}}
    found = {item.old: item.new for item in changed(old, new)}
    assert found == {"params/one/kernel": "params/second/kernel", "params/two/kernel": "params/first/kernel"}


def moved(old: str, new: str) -> LeafDiff:
    return LeafDiff(kind="moved", old=old, new=new)


def test_leaves_that_move_together_have_one_prefix():
    leaves = [moved("params/a/kernel", "params/net/a/kernel"), moved("params/bias", "params/net/bias")]
    assert tree_diff.prefix_moves(leaves) == {("params", "params/net"): leaves}


def test_partly_moved_modules_have_no_prefix():
    stays = LeafDiff(kind="same", old="params/a/bias", new="params/a/bias")
    assert tree_diff.prefix_moves([moved("params/a/kernel", "params/net/a/kernel"), stays]) == {}


def test_known_renames_beat_equal_paths():
    old = {"params": {"a": {"w": leaf(2)}, "b": {"w": leaf(2)}}}
    found = diff_trees(old, {"params": {"b": {"w": leaf(2)}}}, {"params/a/w": "params/b/w"}).leaves
    assert [(item.kind, item.old) for item in found] == [("moved", "params/a/w"), ("extra", "params/b/w")]


def test_changes_are_in_natural_order():
    old = {"params": {"Dense_2": np.ones(2), "Dense_10": np.ones(2), "Dense_3": np.ones(2)}}
    new = {"params": {"Dense_10": np.ones(3), "Dense_2": np.ones(3), "Dense_3": np.ones(2), "Dense_1": np.ones(2)}}
    changed = [leaf.path for leaf in diff_trees(old, new).changed]
    assert changed == ["params/Dense_1", "params/Dense_2", "params/Dense_10"]
