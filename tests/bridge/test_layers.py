"""The layers of conf/layer: each composes, is built, and is the same inside the bridge as outside."""

from __future__ import annotations

import functools
from typing import Any

import hydra
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core.scope import LazyRng

from runner.arrays import trees
from runner.bridge import wrap
from runner.bridge.layers import blocks, recurrent
from runner.bridge.layers.variables import Calls
from runner.bridge.wrap import Bridged
from runner.config import conf_folder, schema, settings
from runner.errors import ConfigError
from runner.experiment import inputs

LAYERS = [name for name in schema.layer_names() if name != "custom"]
STREAMS = {"params": 3, "dropout": 1, "carry": 2, "noise": 4}

# What a layer makes of x [2, 6, 12] with 16 features, where it is not [2, 6, 16].
SAME = {"batch_norm", "dropout", "group_norm", "inner_scan", "instance_norm", "layer_norm", "noise", "prelu"}
SAME |= {"rms_norm", "transformer_block"}
SHAPES = dict.fromkeys(SAME, (2, 6, 12)) | {
    "bidirectional": (2, 6, 32),
    "conv_transpose": (2, 12, 16),
    "embed": (2, 6, 12, 16),
    "tied_weights": (2, 6, 12, 32),
}


@functools.cache
def composed(*overrides: str) -> settings.Run:
    schema.register()
    with hydra.initialize_config_dir(str(conf_folder.config_dir()), version_base="1.3"):
        return schema.from_config(hydra.compose("config", list(overrides)))


def parts(run: settings.Run) -> tuple[Bridged, jax.Array]:
    """The wrapped layer and an x."""
    return wrap.wrap(run.layer), jnp.asarray(inputs.make_input(run.input, run.input_shape))


def bits(tree: Any) -> Any:
    return [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


def drawn(shapes: Any) -> Any:
    """Variables of these shapes with no two elements alike, and none that a norm can't divide by."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype), shapes)


def native_twin(layer: Bridged, variables: Any) -> nnx.Module:
    """The module outside the bridge: other weights drawn, then `variables` put in; the same streams otherwise."""
    streams = {name: LazyRng.create(jax.random.key(seed), 1).as_jax_rng() for name, seed in STREAMS.items()}
    module = layer.construct(nnx.Rngs(**streams | {"params": 7}))
    for collection in trees.unbox(variables).values():
        nnx.update(module, collection)
    return module


@pytest.mark.sampled
@pytest.mark.parametrize("name", LAYERS)
def test_bridged_output_equals_native_output(name):
    run = composed(f"layer={name}")
    layer, x = parts(run)
    keys = {stream: jax.random.key(seed) for stream, seed in STREAMS.items()}
    variables = drawn(jax.eval_shape(layer.model.init, keys, x))
    # Compiled, one program each: eager calls would compile every operation by itself.
    bridged = jax.jit(lambda variables, x: layer.model.apply(variables, x, rngs=keys, mutable=True)[0])(variables, x)
    native = jax.jit(lambda variables, x: native_twin(layer, variables)(x))(variables, x)
    assert bits(bridged) == bits(native)
    assert run.layer.name == name
    assert np.isfinite(bridged).all()


@pytest.mark.sampled
@pytest.mark.parametrize("name", LAYERS)
def test_layers_follow_input_shape_and_features(name):
    layer, x = parts(composed(f"layer={name}", "input_shape=[2,6,12]", "features=16"))
    y = jax.eval_shape(lambda x: layer.construct(nnx.Rngs(0, **STREAMS))(x), x)
    assert y.shape == SHAPES.get(name, (2, 6, 16))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch_norm", "spectral_norm", "custom_variable"])
def test_bridged_updates_equal_native_updates(name):
    layer, x = parts(composed(f"layer={name}"))
    variables = layer.model.init(jax.random.key(0), x)
    (collection,) = [key for key in variables if key != "params"]
    _, changed = layer.model.apply(variables, x, mutable=[collection])
    native = native_twin(layer, variables)
    native(x)
    kind = Calls if name == "custom_variable" else nnx.BatchStat
    assert bits(changed[collection]) == bits(nnx.to_pure_dict(nnx.state(native, kind)))
    assert bits(changed[collection]) != bits(variables[collection])


@pytest.mark.slow
def test_transformer_dropout_changes_the_output():
    overrides = ["layer=transformer_block", "layer.kwargs.dropout_rate=0.5"]
    (trained, x), (evaluated, _) = (parts(composed(*overrides, f"layer.kwargs.deterministic={off}")) for off in (0, 1))
    with_dropout, without = (
        jax.jit(lambda x, layer=layer: layer.construct(nnx.Rngs(0))(x)) for layer in (trained, evaluated)
    )
    assert bits(with_dropout(x)) != bits(without(x))


def test_tied_weights_are_one_leaf():
    layer, x = parts(composed("layer=tied_weights"))
    variables = jax.eval_shape(layer.model.init, jax.random.key(0), x)
    assert [leaf.shape for leaf in jax.tree.leaves(variables)] == [(32, 8)]


@pytest.mark.parametrize("name", ["inner_scan", "inner_vmap"])
def test_stacked_layers_have_a_leading_axis(name):
    layer, x = parts(composed(f"layer={name}"))
    variables = jax.eval_shape(layer.model.init, jax.random.key(0), x)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(variables)} == {3}


def test_mlp_has_num_layers_linear_layers():
    module = blocks.MLP(4, 16, 8, num_layers=3, rngs=nnx.Rngs(0))
    shapes = {name: layer["kernel"].shape for name, layer in nnx.to_pure_dict(nnx.state(module)).items()}
    assert shapes == {"linear_0": (4, 16), "linear_1": (16, 16), "linear_2": (16, 8)}


def test_mlp_without_linear_layers_is_refused():
    with pytest.raises(ValueError, match="^num_layers=0: an MLP has at least one linear layer$"):
        blocks.MLP(4, 16, 8, num_layers=0, rngs=nnx.Rngs(0))


def test_unknown_cells_list_the_known_ones():
    with pytest.raises(ValueError, match="^cell=elman: no such cell, there are lstm, optimized_lstm, gru, simple$"):
        recurrent.rnn("elman", 4, 8, rngs=nnx.Rngs(0))


def test_custom_needs_a_target():
    with pytest.raises(ConfigError, match="layer.target=null: no layer is named"):
        composed("layer=custom")
