"""Which modules are which: by position where both models were traced, by Linen's numbers where only the new one was."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from runner.arrays import alignment
from runner.arrays.alignment import Child


def leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.dtype("float32"))


def params(**modules: Any) -> dict[str, Any]:
    return {"params": modules}


def made(*names: str) -> dict[tuple[str, ...], list[Child]]:
    """The root's children, as Linen would have named them."""
    return {(): [Child(name, name.rpartition("_")[0] or name, "_" in name) for name in names]}


DENSE, NORM = {"kernel": leaf(8, 8), "bias": leaf(8)}, {"scale": leaf(8), "bias": leaf(8)}

OLD = params(LayerNorm_0=NORM, Dense_0=DENSE, Dense_1=DENSE, LayerNorm_1=NORM)
NEW = params(ToLinen_0=NORM, ToLinen_1=DENSE, Dense_0=DENSE, LayerNorm_0=NORM)
OLD_ORDER = made("LayerNorm_0", "Dense_0", "Dense_1", "LayerNorm_1")
NEW_ORDER = made("ToLinen_0", "ToLinen_1", "Dense_0", "LayerNorm_0")

NAMES = {"ToLinen_0": "LayerNorm_0", "ToLinen_1": "Dense_0", "Dense_0": "Dense_1", "LayerNorm_0": "LayerNorm_1"}


def names(old: Any, new: Any, before: Any, after: Any, *, by_position: bool = False) -> dict[str, str]:
    found = alignment.align(old, new, before, after, by_position=by_position)
    return {"/".join(path): name for path, name in found.names.items()}


@pytest.mark.parametrize("before", [OLD_ORDER, None])
def test_two_kinds_replaced_are_named(before):
    assert names(OLD, NEW, before, NEW_ORDER) == NAMES


def test_no_renames_without_a_traced_order():
    assert names(OLD, NEW, OLD_ORDER, None) == {}


def test_what_fits_twice_is_not_named():
    # Of which class is the one that was replaced? Both have the same leaves.
    old, new = params(Dense_0=DENSE, Other_0=DENSE), params(ToLinen_0=DENSE, ToLinen_1=DENSE)
    assert names(old, new, None, made("ToLinen_0", "ToLinen_1")) == {}
    assert names(old, new, made("Dense_0", "Other_0"), made("ToLinen_0", "ToLinen_1")) == {
        "ToLinen_0": "Dense_0",
        "ToLinen_1": "Other_0",
    }


def test_a_given_name_is_kept():
    old, new = params(Dense_0=DENSE, Dense_1=DENSE), params(Dense_1=DENSE, Dense_0=DENSE)
    after = {(): [Child("Dense_1", "ToLinen", False), Child("Dense_0", "Dense", True)]}
    assert names(old, new, made("Dense_0", "Dense_1"), after) == {}
    by_position = names(old, new, made("Dense_0", "Dense_1"), after, by_position=True)
    assert by_position == {"Dense_1": "Dense_0", "Dense_0": "Dense_1"}


@pytest.mark.parametrize(
    ("old", "new", "moves"),
    [
        (params(a=DENSE, b=NORM), params(net={"a": DENSE, "b": NORM}), [((), ("net",))]),
        (params(a=DENSE, b=NORM), params(net={"core": {"a": DENSE, "b": NORM}}), [((), ("net", "core"))]),
        (params(net={"a": DENSE, "b": NORM}), params(a=DENSE, b=NORM), [(("net",), ())]),
    ],
)
def test_a_prefix_is_one_move(old, new, moves):
    found = alignment.align(old, new, None, None, by_position=False)
    assert [(move.old, move.new) for move in found.moves] == moves


def test_all_collections_move_with_their_module():
    old = {"params": {"norm": {"scale": leaf(8)}}, "batch_stats": {"norm": {"mean": leaf(8)}}}
    new = {name: {"net": inner} for name, inner in old.items()}
    assert alignment.align(old, new, None, None, by_position=False).renames(old, new) == {
        "params/norm/scale": "params/net/norm/scale",
        "batch_stats/norm/mean": "batch_stats/net/norm/mean",
    }


def test_orders_of_equal_modules_appear_once():
    old, new = params(Dense_0=DENSE, Dense_1=DENSE), params(net={"up": DENSE, "down": DENSE})
    ways = list(alignment.by_order(old, new, None, None))
    assert [way["params/Dense_0/kernel"] for way in ways] == ["params/net/down/kernel", "params/net/up/kernel"]
    assert list(alignment.by_order(old, params(net={"up": DENSE}), None, None)) == []


@pytest.mark.parametrize("num", [40, 2000])
def test_many_modules_are_named(num):
    old = params(**{f"Dense_{index}": DENSE for index in range(num)})
    kept = [f"Dense_{index}" for index in range(num - 1)]
    order = [*kept[: num // 2], "ToLinen_0", *kept[num // 2 :]]
    found = names(old, params(**dict.fromkeys(order, DENSE)), None, made(*order))
    assert len(found) == num - num // 2
    assert (found["ToLinen_0"], found[kept[-1]]) == (f"Dense_{num // 2}", f"Dense_{num - 1}")
