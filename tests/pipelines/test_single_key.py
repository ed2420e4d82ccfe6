"""A stand-in for Brax with an NNX layer in its policy: what holds, and what the checks say of the faults there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest
from pipeline_standins import single_key

import runner
from tests.pipelines import typed
from tests.pipelines.compared import require_equal_bits

OBS = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)
TRACED = ("complete", "nothing_invented", "streams", "mutable", "trained")


@pytest.fixture(scope="module")
def old():
    """Variables of the policy with its own hidden_1."""
    return single_key.Policy().init(jax.random.key(0), OBS)


def failed(kind):
    policy = single_key.Policy(single_key.wrapped(kind))
    return {check.name for check in runner.check(policy, OBS, pipeline="brax", only=TRACED).failed}


@pytest.mark.slow
def test_a_healthy_layer_passes():
    assert failed(single_key.Gated) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (single_key.Dropped, {"streams"}),
        (single_key.Normed, {"mutable", "trained"}),
        (single_key.Noisy, {"nothing_invented"}),
    ],
)
def test_what_one_key_cannot_serve_fails(kind, names):
    assert names <= failed(kind)


@pytest.mark.slow
def test_tuple_items_are_compared(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ocp.PyTreeCheckpointer().save(tmp_path / "saved", ({"mean": jnp.zeros(3)}, old, {"params": {"v": jnp.ones(2)}}))
    module = "pipeline_standins.single_key"
    said = typed.run("diff", f"{module}:Policy()@saved#1", f"{module}:Migrated()", "--input", "[4,3]")
    assert said.code == 0, said.text


def test_three_updates_keep_the_bits(old):
    ended = []
    for policy in (single_key.Policy(), single_key.Migrated()):
        params, state = old, optax.adam(1e-2).init(old)
        for _ in range(3):
            params, state = jax.jit(single_key.update, static_argnums=0)(policy, params, state, OBS)
        ended.append((params, state))
    require_equal_bits(*ended)
