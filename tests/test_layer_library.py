"""The layers of conf/layer: each composes, is built, and is the same inside the bridge as outside."""

from __future__ import annotations

import importlib
from typing import Any

import hydra
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict
from flax.core.scope import LazyRng

from runner import layers, settings
from runner.errors import ConfigError

LAYERS = [name for name in settings.layer_names() if name != "custom"]
STREAMS = {"params": 3, "dropout": 1, "carry": 2}


def composed(*overrides: str) -> settings.Run:
    settings.register()
    with hydra.initialize_config_dir(str(settings.config_dir()), version_base="1.3"):
        return settings.from_config(hydra.compose("config", list(overrides)))


def parts(run: settings.Run) -> tuple[Any, dict[str, Any], jax.Array]:
    """The layer's class or factory, its kwargs, and an x."""
    module, _, name = str(run.layer.target).rpartition(".")
    kwargs = run.layer.kwargs
    if "activation" in kwargs:
        kwargs = kwargs | {"activation": getattr(nnx, kwargs["activation"])}
    x = np.random.default_rng(0).normal(size=run.input_shape).astype(np.float32)
    if run.input.kind is settings.InputKind.tokens:
        x = np.arange(np.prod(run.input_shape), dtype=np.int32).reshape(run.input_shape) % run.input.high
    return getattr(importlib.import_module(module), name), kwargs, jnp.asarray(x)


def bits(tree: Any) -> Any:
    return [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


def native_twin(target: Any, kwargs: dict[str, Any], variables: Any) -> nnx.Module:
    """The module outside the bridge: other weights drawn, then `variables` put in; the same stream of masks."""
    mask_stream = LazyRng.create(jax.random.key(STREAMS["dropout"]), 1).as_jax_rng()
    module = target(**kwargs, rngs=nnx.Rngs(7, dropout=mask_stream))
    for collection in variables.values():
        nnx.update(module, collection)
    return module


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_runs_by_its_name_alone(name):
    run = composed(f"layer={name}")
    target, kwargs, x = parts(run)
    y = target(**kwargs, rngs=nnx.Rngs(0, **STREAMS))(x)
    assert run.layer.name == name
    assert np.isfinite(y).all()


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_answers_the_same_inside_the_bridge_as_outside(name):
    target, kwargs, x = parts(composed(f"layer={name}"))
    model = nnx.bridge.ToLinen(target, kwargs=FrozenDict(kwargs))
    keys = {stream: jax.random.key(seed) for stream, seed in STREAMS.items()}
    variables = model.init(keys, x)
    bridged, _ = model.apply(variables, x, rngs=keys, mutable=["batch_stats"])
    native = native_twin(target, kwargs, variables)
    assert bits(bridged) == bits(native(x))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_follows_input_shape_and_features(name):
    run = composed(f"layer={name}", "input_shape=[2,6,12]", "features=16")
    target, kwargs, x = parts(run)
    y = jax.eval_shape(lambda x: target(**kwargs, rngs=nnx.Rngs(0, **STREAMS))(x), x)
    uses_features = name not in {"batch_norm", "dropout", "layer_norm", "rms_norm", "transformer_block"}
    lead = (2, 6, 12) if name == "embed" else (2, 6)
    assert y.shape == (*lead, 16 if uses_features else 12)


def test_batch_norm_moves_the_same_statistics_inside_the_bridge_as_outside():
    target, kwargs, x = parts(composed("layer=batch_norm"))
    model = nnx.bridge.ToLinen(target, kwargs=FrozenDict(kwargs))
    variables = model.init(jax.random.key(0), x)
    _, changed = model.apply(variables, x, mutable=["batch_stats"])
    native = native_twin(target, kwargs, variables)
    native(x)
    assert bits(changed["batch_stats"]) == bits(nnx.to_pure_dict(nnx.state(native, nnx.BatchStat)))
    assert bits(changed["batch_stats"]) != bits(variables["batch_stats"])


def test_a_dropout_rate_in_the_transformer_block_changes_its_output():
    target, kwargs, x = parts(composed("layer=transformer_block", "layer.kwargs.dropout_rate=0.5"))
    trained, evaluated = (target(**kwargs | {"deterministic": off}, rngs=nnx.Rngs(0))(x) for off in (False, True))
    assert bits(trained) != bits(evaluated)


def test_an_mlp_has_num_layers_linear_layers():
    module = layers.MLP(4, 16, 8, num_layers=3, rngs=nnx.Rngs(0))
    shapes = {name: layer["kernel"].shape for name, layer in nnx.to_pure_dict(nnx.state(module)).items()}
    assert shapes == {"linear_0": (4, 16), "linear_1": (16, 16), "linear_2": (16, 8)}


def test_an_mlp_without_linear_layers_is_refused():
    with pytest.raises(ValueError, match="^num_layers=0: an MLP has at least one linear layer$"):
        layers.MLP(4, 16, 8, num_layers=0, rngs=nnx.Rngs(0))


def test_an_unknown_cell_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="^cell=elman: no such cell, there are lstm, gru, simple$"):
        layers.rnn("elman", 4, 8, rngs=nnx.Rngs(0))


def test_custom_needs_a_target():
    with pytest.raises(ConfigError, match="layer.target=null: no layer is named"):
        composed("layer=custom")
