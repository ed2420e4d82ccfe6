"""The check `axes`, and the wrapper that writes `params_axes` as T5X's own layers do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from axes_hosts import Stack, default, listed, short, writing
from flax import nnx, traverse_util
from flax.linen import partitioning
from jax.sharding import PartitionSpec as P

import runner
from runner.bridge.tracing import tried_boxes
from runner.records.record import Verdict

X = jnp.ones((2, 4))
KEY = jax.random.PRNGKey(0)

pytestmark = pytest.mark.usefixtures("placing_nothing")


def check_of(model):
    return runner.check(model, X, only=["axes"])["axes"]


@pytest.fixture(scope="module")
def variables():
    return jax.jit(Stack(writing).init)(KEY, X)


@pytest.mark.parametrize("scan", [True, False])
def test_params_without_axes_fail(scan):
    check = check_of(Stack(default, scan=scan))
    assert (check.verdict, check.fix) == (Verdict.fail, tried_boxes.WRITER)
    assert "T5X raises ValueError: Missing axis names for parameters" in check.detail


@pytest.mark.parametrize("scan", [True, False])
def test_the_wrapper_writes_every_entry(scan):
    check = check_of(Stack(writing, scan=scan))
    assert check.verdict is Verdict.passed
    assert check.detail == f"each of {4 if scan else 8} params has its axes in params_axes"


def test_scanned_axes_become_specs():
    variables = jax.eval_shape(Stack(writing).init, KEY, X)
    specs = partitioning.get_axis_names(variables["params_axes"])["blocks"]
    assert specs["mlp"]["up"] == {"kernel": P("layers", "embed", "mlp"), "bias": P("layers", None)}
    assert specs["dense"]["kernel"] == P("layers", "embed", "mlp")
    kinds = {type(leaf).__name__ for leaf in traverse_util.flatten_dict(variables["params"]).values()}
    assert kinds == {"ShapeDtypeStruct"}


@pytest.mark.slow
@pytest.mark.parametrize("mutable", [False, True, ["params_axes"]])
def test_apply_takes_axes_and_leaves_them(mutable, variables):
    model = Stack(writing)
    got = jax.jit(lambda v: model.apply(v, X, mutable=mutable))(variables)
    expected = jax.jit(model.apply)({"params": variables["params"]}, X)
    output, updates = (got, {}) if mutable is False else got
    assert (output == expected).all()
    assert updates.get("params_axes", variables["params_axes"]) == variables["params_axes"]


@pytest.mark.slow
def test_the_wrapped_layer_learns(variables):
    model, params = Stack(writing), variables["params"]
    gradient = jax.jit(jax.grad(lambda params: (model.apply({"params": params}, X) ** 2).sum()))(params)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient["blocks"]["mlp"]["down"]))


def test_the_wrapper_needs_no_mesh():
    with nnx.use_eager_sharding(True):
        assert "params_axes" in jax.eval_shape(Stack(writing).init, KEY, X)


def test_integer_keys_fail_where_axes_are_made():
    check = check_of(Stack(listed))
    assert check.verdict is Verdict.fail
    assert "T5X's flatten_dict(params, sep='/') raises TypeError" in check.detail


def test_too_few_names_fail():
    check = check_of(Stack(short, scan=False))
    assert check.verdict is Verdict.fail
    assert check.detail.startswith("params/first/mlp/up/kernel has 2 axes and the names (embed) in params_axes")


def test_a_host_without_axes_is_not_asked():
    assert "axes" not in [check.name for check in runner.check(default("x").clone(name=None), X, only=["used"])]
    assert check_of(default("x").clone(name=None)).verdict is Verdict.skipped
