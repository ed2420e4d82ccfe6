"""The check `used`."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
import state_layers
from flax.nnx import bridge

import runner
from runner.commands import main
from runner.records.record import Verdict

X = jnp.ones((2, 4))
CHECK = ["check", "layer=linear", "features=4", "input_shape=[2,4]"]


def checked(model, name="used"):
    (check,) = runner.check(model, X, only=[name])
    return check


def test_a_layer_that_returns_nothing_fails():
    check = checked(bridge.to_linen(state_layers.ReturnsNothing))
    assert (check.verdict, check.detail) == (
        Verdict.fail,
        "the call returns no array but None: nothing to use or train",
    )
    assert checked(bridge.to_linen(state_layers.Drops)).verdict is Verdict.passed


def test_ignoring_the_layer_output_fails():
    check = checked(state_layers.Ignores())
    assert (check.verdict, check.detail) == (
        Verdict.fail,
        "the host calls mine, and its output does not depend on what it gives",
    )
    assert check.evidence == {"dead": ["mine"]}


@pytest.mark.parametrize("host", [state_layers.SowsIt(), state_layers.Scans(("params", "batch_stats"))])
def test_using_the_layer_output_passes(host):
    assert checked(host).verdict is Verdict.passed


@pytest.mark.slow
def test_jitted_hosts_are_traced_each_time():
    for _ in range(2):
        assert checked(state_layers.JitsIt()).detail == "the host's output depends on mine"


@pytest.mark.slow
def test_hosts_never_calling_the_layer_fail(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main.main([*CHECK, "host.target=state_layers.NeverCalls"]) == 1
    assert "the host never calls the layer" in " ".join(capsys.readouterr().out.split())
