"""Small hosts that keep the contracts of T5X, MaxText and Kauldron: what breaks in them is named, and nothing else."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax.nnx import bridge
from pipeline_standins import axes, logical, mlps, train_property

import runner
from runner.bridge.layers.axes import AxesToLinen

X = jnp.ones((2, 3, 8))
KEYS = {"params": jax.random.key(0)}


def made(wrapper, layer, **more):
    """What a host calls to get its layer."""
    return functools.partial(wrapper, layer, (8, 16), **more)


def asked(host, *names, pipeline, **more):
    found = runner.check(host, X, only=list(names), pipeline=pipeline, **more)
    return {check.name: check for check in found}


def encoder(layer, wrapper=AxesToLinen, **more):
    return axes.Encoder(made(wrapper, layer, **more))


def test_axes_of_a_wrapped_layer_are_mapped():
    variables = jax.eval_shape(encoder(mlps.Mlp).init, KEYS, X)
    assert axes.mesh_axes(variables)["encoder/mlp/wi/kernel"] == jax.sharding.PartitionSpec(None, None, "model")


@pytest.mark.slow
def test_params_without_axes_are_refused():
    bare = encoder(mlps.Mlp, bridge.ToLinen, metadata_fn=None)
    with nnx.use_eager_sharding(False):
        variables = jax.eval_shape(bare.init, KEYS, X)
    with pytest.raises(ValueError, match="no axis names of .*mlp/wi/kernel"):
        axes.mesh_axes(variables)
    found = asked(bare, "axes", pipeline="t5x")["axes"]
    assert found.verdict == "fail"
    assert "mlp/wi/kernel" in found.detail


@pytest.mark.slow
def test_numbers_as_keys_are_refused():
    with pytest.raises(TypeError):
        axes.mesh_axes(jax.eval_shape(encoder(mlps.ListMlp).init, KEYS, X))
    found = asked(encoder(mlps.ListMlp), "axes", pipeline="t5x")["axes"]
    assert found.verdict == "fail"
    assert "no strings" in found.detail


@pytest.mark.slow
def test_a_healthy_layer_passes_in_t5x():
    names = ("streams", "complete", "mutable", "trained", "axes", "pipeline")
    found = asked(encoder(mlps.Mlp), *names, pipeline="t5x")
    assert {name: str(check.verdict) for name, check in found.items()} == dict.fromkeys(names, "pass")


@pytest.mark.slow
def test_t5x_misses_a_stream():
    found = asked(encoder(mlps.EagerMlp), "streams", pipeline="t5x")["streams"]
    assert found.verdict == "fail"
    assert "dropout" in found.detail


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "pipeline"),
    [
        (encoder(mlps.StatsMlp), "t5x"),
        (logical.Decoder(made(logical.OwnToLinen, mlps.AveragingMlp)), "maxtext"),
    ],
    ids=["t5x", "maxtext"],
)
def test_uncarried_state_is_lost(host, pipeline):
    found = asked(host, "complete", "mutable", "pipeline", pipeline=pipeline)
    assert any(check.verdict == "fail" for check in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("layer", [mlps.Mlp, mlps.StatsMlp])
def test_what_a_scan_carries_is_not_lost(layer):
    names = ("complete", "pipeline")
    found = asked(logical.Decoder(made(logical.OwnToLinen, layer)), *names, pipeline="maxtext")
    assert {name: str(check.verdict) for name, check in found.items()} == dict.fromkeys(names, "pass")


@pytest.mark.slow
def test_a_box_that_maxtext_leaves_is_named():
    boxed = logical.Decoder(made(bridge.ToLinen, mlps.Mlp))
    with nnx.use_eager_sharding(False):
        left = logical.unboxed(jax.eval_shape(boxed.init, KEYS | {"dropout": KEYS["params"]}, X))
    assert any("value" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(left))
    assert asked(boxed, "pipeline", pipeline="maxtext")["pipeline"].verdict == "fail"


def model(layer, *, told):
    return train_property.Model(made(bridge.ToLinen, layer), told=told)


@pytest.mark.slow
def test_unreached_mode_is_named():
    host = model(mlps.UnawareMlp, told=False)
    found = asked(host, "traps", "mode", "pipeline", pipeline="kauldron")
    assert {name for name, check in found.items() if check.verdict == "fail"} & {"mode", "traps"}


@pytest.mark.slow
def test_a_mode_that_is_handed_on_passes():
    found = asked(model(mlps.PlainMlp, told=True), "traps", "mode", "pipeline", pipeline="kauldron")
    assert not [name for name, check in found.items() if check.verdict == "fail"]
