"""Layers of other packages on the index: checked and run as they come, with no adapter of ours."""

from __future__ import annotations

import json

import pytest

from runner.checks import registry
from runner.checks.results.verdicts import STRICT
from runner.commands import main

pytestmark = pytest.mark.slow

# Each as it is typed after `layer=custom`; the packages are in the extra `test`.
LAYERS = {
    "a KAN layer": (
        "layer.target=jaxkan.layers.ChebyshevLayer",
        "+layer.kwargs.n_in=4",
        "+layer.kwargs.n_out=8",
        "layer.kwargs.seed=${seed}",
        "input_shape=[2,4]",
    ),
    "a whole KAN": (
        "layer.target=jaxkan.models.KAN.KAN",
        "+layer.kwargs.layer_dims=[4,5,8]",
        "+layer.kwargs.layer_type=chebyshev",
        "+layer.kwargs.required_parameters={D: 3}",
        "layer.kwargs.seed=${seed}",
        "input_shape=[2,4]",
    ),
    "a graph convolution over edges": (
        "layer.target=jraphx.nn.conv.GCNConv",
        "+layer.kwargs.in_features=4",
        "+layer.kwargs.out_features=8",
        "input_shape=[5,4]",
        "input.shapes={edge_index:[2,6]}",
        "input.dtypes={edge_index:int32}",
        "input.high=5",
    ),
    "a network of a graph package": (
        "layer.target=jraphx.nn.models.MLP",
        "+layer.kwargs.in_features=4",
        "+layer.kwargs.hidden_features=6",
        "+layer.kwargs.out_features=8",
        "+layer.kwargs.num_layers=2",
        "+layer.kwargs.norm=layer_norm",
        "input_shape=[5,4]",
    ),
    "a layer of a policy, with its state": (
        "layer.target=nnx_ppo.networks.feedforward.Dense",
        "+layer.kwargs.in_features=4",
        "+layer.kwargs.out_features=8",
        "+layer.call.state=[]",
        "input.name=x",
        "input_shape=[5,4]",
    ),
    "a block that takes a config": (
        "layer.target=mamba3_jax.modeling.Mamba3Block",
        "+layer.kwargs.cfg._target_=mamba3_jax.modeling.Mamba3Config",
        "+layer.kwargs.cfg.hidden_size=16",
        "+layer.kwargs.cfg.state_size=8",
        "+layer.kwargs.cfg.head_dim=8",
        "+layer.kwargs.cfg.chunk_size=4",
        "+layer.kwargs.layer_idx=0",
        "input_shape=[2,8,16]",
    ),
    "a causal convolution that also gives its state": (
        "layer.target=mamba2_jax.modeling.DepthwiseConv1d",
        "+layer.kwargs.features=4",
        "+layer.kwargs.kernel_size=4",
        "input_shape=[2,8,4]",
    ),
    "a state space model": (
        "layer.target=mamba2_jax.Mamba2Forecaster",
        "+layer.kwargs.input_dim=4",
        "+layer.kwargs.d_model=16",
        "+layer.kwargs.n_layers=1",
        "+layer.kwargs.forecast_horizon=2",
        "+layer.kwargs.d_state=8",
        "+layer.kwargs.headdim=8",
        "+layer.kwargs.chunk_size=4",
        "input_shape=[2,8,4]",
    ),
}

# What is found is so: a whole KAN hands its one seed to each layer, and all of them draw from the key of it.
ONE_KEY = {LAYERS["a whole KAN"]: {"streams"}}


@pytest.mark.parametrize("typed", LAYERS.values(), ids=LAYERS.keys())
def test_third_party_layers_check_as_is(typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main.main(["check", "--json", "layer=custom", *typed])
    (checked,) = json.loads(capsys.readouterr().out)
    verdicts = {item["name"]: item["verdict"] for item in checked["checks"]}
    assert checked["error"] is None
    asked = {*registry.TRACED, *registry.FULL, "as_traced", "finite"} - registry.ASKED_IF.keys()
    assert asked <= verdicts.keys()
    failed = {name for name, said in verdicts.items() if name in STRICT and said == "fail"}
    assert failed == ONE_KEY.get(typed, set())
    assert not list(tmp_path.iterdir())


def test_third_party_layers_run_and_save(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = LAYERS["a causal convolution that also gives its state"]
    assert main.main(["-m", "layer=custom", *typed, "seed=0,1", "sweep=other", "timing=off", "tracking=disabled"]) == 0
    runs = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("outputs/other/runs/*/record.json"))]
    assert [leaf["path"] for leaf in runs[0]["variables"]] == [["params", "conv", "bias"], ["params", "conv", "kernel"]]
    assert runs[0]["output"][0]["digest"] != runs[1]["output"][0]["digest"]
    assert len(list(tmp_path.glob("outputs/other/runs/*/checkpoint"))) == 2


def test_self_seeding_kan_layers_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bound = ["layer=custom", *LAYERS["a KAN layer"], "seed=0,1", "timing=off", "tracking=disabled", "checkpoint=none"]
    deaf = [word for word in bound if "${seed}" not in word]
    assert main.main(["-m", *deaf, "sweep=deaf"]) == 1
    assert "params/c_basis does not depend on the seed" in capsys.readouterr().err
    assert main.main(["-m", *bound, "sweep=bound"]) == 0
    paths = tmp_path.glob("outputs/bound/runs/*/record.json")
    assert len({json.loads(path.read_text())["output"][0]["digest"] for path in paths}) == 2
