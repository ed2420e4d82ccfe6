"""Two trees of variables: what is the same, missing, extra, moved, reshaped, cast; and what counting again did."""

from __future__ import annotations

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge

from runner.arrays import renames as arrays_renames
from runner.arrays.renames import LeafDiff


def leaf(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.dtype(dtype))


def changed(old, new, **options) -> list[LeafDiff]:
    return [item for item in arrays_renames.compare(old, new, **options) if item.kind != arrays_renames.SAME]


def test_equal_trees_have_no_difference_and_integer_keys_are_as_their_spelling():
    old = {"params": {"layers": {"0": {"kernel": leaf(4, 8)}}}}
    new = {"params": {"layers": {0: {"kernel": leaf(4, 8)}}}}
    assert changed(old, new) == []


def test_missing_and_extra_leaves_are_named_with_the_nearest():
    found = changed({"params": {"kernal": leaf(4, 8)}}, {"params": {"kernel": leaf(4, 9)}})
    assert found == [
        LeafDiff(kind="missing", new="params/kernel", wanted="float32[4,9]", nearest="params/kernal"),
        LeafDiff(kind="extra", old="params/kernal", was="float32[4,8]"),
    ]


@pytest.mark.parametrize(
    ("old", "kind"), [(leaf(4, 8, dtype="bfloat16"), "cast"), (leaf(8, 4), "reshaped"), (leaf(4), "reshaped")]
)
def test_a_leaf_of_another_type_or_shape_is_told(old, kind):
    (found,) = changed({"params": {"kernel": old}}, {"params": {"kernel": leaf(4, 8)}})
    assert (found.kind, found.was, found.wanted) == (kind, arrays_renames.kind(old), "float32[4,8]")


def test_a_leaf_in_another_collection_has_moved():
    (found,) = changed({"LoRAParam": {"lora_a": leaf(4, 2)}}, {"params": {"lora_a": leaf(4, 2)}})
    assert (found.kind, found.old, found.new) == ("moved", "LoRAParam/lora_a", "params/lora_a")


def test_bits_tell_apart_what_shapes_do_not():
    a, b = np.arange(4.0), np.arange(4.0) + 1
    old = {"params": {"one": {"kernel": a}, "two": {"kernel": b}}}
    new = {"params": {"first": {"kernel": b}, "second": {"kernel": a}}}
    found = {item.old: item.new for item in changed(old, new)}
    assert found == {"params/one/kernel": "params/second/kernel", "params/two/kernel": "params/first/kernel"}


class Old(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.Dense(8)(x)
        return x


class New(nn.Module):
    names: tuple = (None, None, None)
    place: int = 1

    @nn.compact
    def __call__(self, x):
        for index, name in enumerate(self.names):
            wrapped, dense = functools.partial(bridge.to_linen, nnx.Linear, 8, 8), functools.partial(nn.Dense, 8)
            make = wrapped if index == self.place else dense
            x = make(name=name)(x)
        return x


X = jnp.ones((2, 8))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_linen_counted_anew_is_found_and_the_renamed_checkpoint_gives_the_old_bits(place):
    variables = Old().init(jax.random.key(0), X)
    new = New(place=place)
    wanted = jax.eval_shape(new.init, jax.random.key(0), X)
    order = [
        (name,)
        for name in ("ToLinen_0" if index == place else f"Dense_{index - (index > place)}" for index in range(3))
    ]
    renames = arrays_renames.counted_anew(variables, wanted, order)
    renamed = arrays_renames.rename(variables, renames)
    assert {item.kind for item in arrays_renames.compare(renamed, wanted)} == {"same"}
    assert (new.apply(renamed, X) == Old().apply(variables, X)).all()


def test_the_names_that_put_it_right_are_given():
    variables = Old().init(jax.random.key(0), X)
    wanted = jax.eval_shape(New().init, jax.random.key(0), X)
    order = [("Dense_0",), ("ToLinen_0",), ("Dense_1",)]
    names = arrays_renames.module_names(arrays_renames.counted_anew(variables, wanted, order))
    assert names == {"ToLinen_0": "Dense_1", "Dense_1": "Dense_2"}
    named = New(names=("Dense_0", names["ToLinen_0"], names["Dense_1"]))
    assert (named.apply(variables, X) == Old().apply(variables, X)).all()


def test_without_the_order_nothing_is_guessed_where_shapes_do_not_tell():
    variables = Old().init(jax.random.key(0), X)
    wanted = jax.eval_shape(New().init, jax.random.key(0), X)
    assert arrays_renames.counted_anew(variables, wanted) == {}


def test_without_the_order_shapes_that_differ_tell():
    old = {"params": {f"Dense_{index}": {"kernel": leaf(index + 1, index + 2)} for index in range(3)}}
    new = {
        "params": {
            "Dense_0": {"kernel": leaf(1, 2)},
            "ToLinen_0": {"kernel": leaf(2, 3)},
            "Dense_1": {"kernel": leaf(3, 4)},
        }
    }
    assert arrays_renames.counted_anew(old, new) == {
        "params/Dense_1/kernel": "params/ToLinen_0/kernel",
        "params/Dense_2/kernel": "params/Dense_1/kernel",
    }


@pytest.mark.parametrize(("num", "num_wrapped"), [(5000, 1), (1000, 300), (40, 20)])
def test_without_the_order_there_may_be_many_modules(num, num_wrapped):
    def dense(index: int) -> dict:
        return {"kernel": leaf(index % 50 + 1, index % 49 + 1)}

    wrapped = range(num // 2, num // 2 + num_wrapped)
    rest = [index for index in range(num) if index not in wrapped]
    old = {"params": {f"Dense_{index}": dense(index) for index in range(num)}}
    new = {f"ToLinen_{count}": dense(index) for count, index in enumerate(wrapped)}
    new |= {f"Dense_{count}": dense(index) for count, index in enumerate(rest)}
    renames = arrays_renames.counted_anew(old, {"params": new})
    assert {old: new for old, new in renames.items() if "ToLinen" in new} == {
        f"params/Dense_{index}/kernel": f"params/ToLinen_{count}/kernel" for count, index in enumerate(wrapped)
    }
    same = {"params": {name: {"kernel": leaf(2, 2)} for name in new}}
    assert arrays_renames.counted_anew({"params": dict.fromkeys(old["params"], same["params"]["Dense_0"])}, same) == {}


def test_ten_thousand_leaves_take_seconds():
    rng = np.random.default_rng(0)
    old = {"params": {f"block_{index}": {"kernel": rng.normal(size=(2, 2))} for index in range(10_000)}}
    new = {"params": {f"layer_{index}": leaf for index, leaf in enumerate(old["params"].values())}}
    started = time.perf_counter()
    found = arrays_renames.compare(old, new)
    assert {item.kind for item in found} == {"moved"}
    assert time.perf_counter() - started < 30
