"""Variables as named leaves, digests that do not move, and the distance between two arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge

from runner.arrays import trees

F32 = np.float32
BF16 = ml_dtypes.bfloat16
X = np.arange(6, dtype=F32).reshape(2, 3)
X_DIGEST = "105dad27b7bb238e17947fcd291b4c11a424a8c08b852ae401504f6f7d11ce32"


def box(array, **metadata):
    return bridge.NNXMeta(nnx.Param, array, metadata)


# Digests.


@pytest.mark.parametrize(
    ("array", "digest"),
    [
        (X, X_DIGEST),
        (np.asarray(True), "1d0f467d50aa67b4003dee6d0654e812afdc3220bf6597aad4c38f4d8dd14a37"),
        (X.astype(BF16), "a90bc8de027a14257391e0c56aeac9789a9e00979afdada87813740514eb6bdb"),
    ],
)
def test_array_digests_are_stable(array, digest):
    assert trees.array_digest(array) == digest


@pytest.mark.parametrize(
    "same",
    [X.astype(">f4"), np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], jnp.asarray(X)],
    ids=["big-endian", "column-major", "strided", "jax"],
)
def test_memory_layout_leaves_the_digest_unchanged(same):
    assert trees.array_digest(same) == X_DIGEST


@pytest.mark.parametrize(
    "other",
    [X.astype(np.float64), X.view(np.int32), X.reshape(3, 2), X.ravel(), X.astype(BF16), -X, X[:1]],
    ids=["float64", "same bytes as int32", "shape", "flat", "bfloat16", "minus zero", "fewer"],
)
def test_dtype_shape_and_bits_change_digest(other):
    assert trees.array_digest(other) != X_DIGEST


def test_tree_digests_are_stable_and_unordered():
    leaves = trees.leaves({"params": {"b": np.ones(3, F32), "a": np.zeros(2, F32)}})
    expected = "001801cc2d8d4c8d65fa8586962562f9a22d03ce4dd4ed7ddb3a37f0372d039e"
    assert trees.tree_digest(leaves) == trees.tree_digest(reversed(leaves)) == expected


def test_swapped_arrays_change_the_tree_digest():
    one = trees.leaves({"params": {"a": np.ones(2), "b": np.zeros(2)}})
    two = trees.leaves({"params": {"a": np.zeros(2), "b": np.ones(2)}})
    assert trees.tree_digest(one) != trees.tree_digest(two)


# Distances.


@pytest.mark.parametrize(
    ("first", "second", "ulp"),
    [
        (F32([1]), F32([1]), 0),
        (F32([1]), np.nextafter(F32([1]), F32([2])), 1),
        (F32([0]), F32([-0.0]), 0),
        (F32([-1e-45]), F32([1e-45]), 2),
        (F32([np.finfo(F32).max]), F32([np.inf]), 1),
        (F32([1, 1]), F32([1, 2]), 2**23),
        (np.float64([1]), np.float64([2]), 2**52),
        (np.float16([1]), np.float16([2]), 2**10),
        (F32([np.nan]), F32([np.nan]), 0),
        (F32([np.nan, 1]), F32([np.nan, 2]), 2**23),
        (np.array([1, 2], BF16), np.array([1.0078125, 2], BF16), 1),
        (np.array([-1], BF16), np.array([1], BF16), 2 * 0x3F80),
        (np.array([1], ml_dtypes.float8_e4m3fn), np.array([1.125], ml_dtypes.float8_e4m3fn), 1),
        (np.array([1], np.int8), np.array([-128], np.int8), 129),
        (np.array([0], np.uint8), np.array([255], np.uint8), 255),
        (np.array([True]), np.array([False]), 1),
        (np.complex64([1 + 1j]), np.complex64([1 + 2j]), 2**23),
        (F32([]), F32([]), 0),
        (np.array(1, F32), np.array(2, F32), 2**23),
        (np.array([-1], ml_dtypes.int4), np.array([1], ml_dtypes.int4), 2),
    ],
)
def test_the_distance_counts_the_values_between(first, second, ulp):
    assert trees.ulp_distance(first, second) == trees.ulp_distance(second, first) == ulp


def test_nan_is_far_from_any_number():
    assert trees.ulp_distance(F32([np.nan]), F32([1])) > 2**22


# Leaves.


def test_leaves_are_named_collection_and_path():
    layers = {"layers": {1: jnp.ones(2, jnp.bfloat16)}}
    first, second = trees.leaves({"params": {"dense": {"kernel": jnp.asarray(X)}}, "batch_stats": layers})
    assert (first.path, first.name, first.dtype) == (["batch_stats", "layers", 1], "batch_stats/layers/1", "bfloat16")
    assert (second.path, second.shape, second.num_bytes) == (["params", "dense", "kernel"], [2, 3], 24)
    assert (second.digest, second.box, second.names) == (X_DIGEST, None, None)


@pytest.mark.parametrize(
    ("boxed", "kind", "names"),
    [
        (nn.Partitioned(jnp.asarray(X), names=("in", "out")), "Partitioned", ["in", "out"]),
        (nn.LogicallyPartitioned(jnp.asarray(X), names=("in", None)), "LogicallyPartitioned", ["in", None]),
        (box(jnp.asarray(X), out_sharding=(None, "model")), "NNXMeta", [None, "model"]),
        (box(jnp.asarray(X), sharding_names=("a", "b")), "NNXMeta", ["a", "b"]),
        (box(jnp.asarray(X)), "NNXMeta", None),
    ],
)
def test_boxes_keep_class_and_axis_names(boxed, kind, names):
    (leaf,) = trees.leaves({"params": {"kernel": boxed}})
    assert (leaf.path, leaf.box, leaf.names) == (["params", "kernel"], kind, names)
    assert (leaf.shape, leaf.digest) == ([2, 3], X_DIGEST)


def test_to_host_unboxes_a_real_layer():
    kernel_init = nn.with_partitioning(nn.initializers.ones, ("in", "out"))
    variables = nn.Dense(3, kernel_init=kernel_init).init(jax.random.key(0), jnp.ones(2))
    host = trees.to_host(variables)
    assert {type(leaf) for leaf in jax.tree.leaves(host)} == {np.ndarray}
    assert host["params"]["kernel"].tolist() == [[1.0] * 3] * 2


def test_random_keys_become_their_data():
    keys = {"keys": {"key": jax.random.key(3)}}
    assert trees.to_host(keys)["keys"]["key"].tolist() == [0, 3]
    assert trees.leaves(keys)[0].dtype == "uint32"


@pytest.mark.parametrize(
    ("output", "paths"),
    [
        (jnp.ones(1), [""]),
        ((jnp.ones(1), {"a": jnp.zeros(2)}), ["0", "1/a"]),
        ({"y": jnp.ones(1), "h": [jnp.ones(1)]}, ["h/0", "y"]),
        (None, []),
    ],
)
def test_output_arrays_are_named_by_path(output, paths):
    assert list(trees.named_arrays(output)) == paths


# Summaries.


def test_summaries_cover_finite_values_only():
    summary = trees.summarize_array("y", F32([[3, np.nan], [np.inf, -4]]))
    assert (summary.shape, summary.num_elements, summary.num_non_finite) == ([2, 2], 4, 2)
    assert (summary.norm, summary.mean, summary.std, summary.min, summary.max) == (5.0, -0.5, 3.5, -4.0, 3.0)


@pytest.mark.parametrize("array", [np.array([np.nan], BF16), np.zeros(0, F32)])
def test_no_statistics_without_finite_values(array):
    summary = trees.summarize_array("", array)
    assert (summary.norm, summary.mean, summary.std, summary.min, summary.max) == (None,) * 5


def test_norms_above_dtype_range_stay_finite():
    assert trees.summarize_array("", F32([3e38, 3e38])).norm == pytest.approx(2**0.5 * 3e38)


def test_complex_values_count_by_magnitude():
    assert trees.summarize_array("", np.complex64([3 + 4j])).max == 5.0


def test_string_keys_become_ints_and_tuples():
    expected = {"layers": {0: X}, "stats": {("kernel", "u"): X}}
    spelled = {"layers": {"0": X}, "stats": {"('kernel', 'u')": X}}
    found = trees.with_keys_of(spelled, expected)
    assert (list(found["layers"]), list(found["stats"])) == ([0], [("kernel", "u")])


def test_tuple_keys_are_recorded_as_text():
    (leaf,) = trees.leaves({"batch_stats": {("kernel", "u"): X}})
    assert leaf.path == ["batch_stats", "('kernel', 'u')"]


def test_restored_trees_take_the_layer_structure():
    key = jax.random.key(3, impl="rbg")
    expected = {"Noise": {"key": key}, "params": {0: {"bias": None}, "pair": (1.0, {"a": 2.0}), "w": 3.0}}
    saved = {
        "Noise": {"key": np.asarray(jax.random.key_data(key))},
        "params": {"pair": {"0": 10.0, "1": {"a": 20.0}}, "w": 30.0, "more": 40.0},
    }
    found = trees.with_keys_of(saved, expected)
    assert found["params"] == {0: {"bias": None}, "pair": (10.0, {"a": 20.0}), "w": 30.0, "more": 40.0}
    assert found["Noise"]["key"] == key


def test_what_is_missing_stays_missing():
    expected = {"params": {"pair": (1.0, 2.0), "none": None}, "cache": {"key": jax.random.key(0)}}
    saved = {"params": {"pair": {"0": 1.0}, "none": {"x": 4.0}}, "cache": {"key": np.zeros(3, np.uint32)}}
    found = trees.with_keys_of(saved, expected)
    assert found["params"] == {"pair": {"0": 1.0}, "none": {"x": 4.0}}
    assert found["cache"]["key"].shape == (3,)
