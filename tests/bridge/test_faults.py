"""Layers and hosts that can't work in Linen whatever the input, and those that look like them."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import pytest
import state_layers
from flax import nnx
from flax.nnx import bridge

import runner
from runner.commands import main
from runner.records.record import Verdict

X = jnp.ones((2, 4))
CHECK = ["check", "layer=custom", "input_shape=[2,4]"]


def checked(model):
    (check,) = runner.check(model, X, only=["complete"])
    return check


@pytest.mark.slow
def test_mutating_a_default_argument_fails():
    check = checked(bridge.to_linen(state_layers.EatsDefault))
    assert check.verdict is Verdict.fail
    assert "its constructor makes another module at each call" in check.detail
    assert checked(bridge.to_linen(state_layers.CopiesDefault)).verdict is Verdict.passed


@pytest.mark.parametrize(("name", "where"), [("KeepsTracer", "TABLE[4]"), ("CachesTracer", "a global, a class or a")])
def test_arrays_kept_from_another_trace_fail(name, where):
    check = checked(bridge.to_linen(getattr(state_layers, name)))
    assert check.verdict is Verdict.fail
    assert where in check.detail
    assert "a tracer leaks" in check.detail


def test_a_cache_of_numpy_arrays_passes():
    assert checked(bridge.to_linen(state_layers.CachesNumpy)).verdict is Verdict.passed


def test_hosts_joining_integer_keys_fail():
    check = checked(state_layers.JoinsPaths(state_layers.Numbered))
    assert check.verdict is Verdict.fail
    assert "mine/layers/0/bias, mine/layers/0/kernel has integer keys in its path" in check.detail
    assert checked(state_layers.JoinsPaths(functools.partial(nnx.Linear, 4, 4))).verdict is Verdict.passed


@pytest.mark.slow
def test_check_exits_1_but_run_2(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    target = "layer.target=state_layers.EatsDefault"
    assert main.main([*CHECK, target]) == 1
    assert "complete  fail  layer EatsDefault: its constructor makes another module" in capsys.readouterr().out
    assert main.main(["run", *CHECK[1:], target]) == 2
