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


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (single_key.Tagged, {}, "params/hidden_1/scale is in a box (NNXMeta)"),
        (single_key.Listed, {}, "have keys that are no text"),
        (single_key.Tagged, {"metadata_fn": None}, None),
        (single_key.Gated, {}, None),
    ],
)
def test_what_no_restore_gives_back_fails(kind, options, words):
    policy = single_key.Policy(single_key.wrapped(kind, **options))
    found = runner.check(policy, OBS, pipeline="brax", only=["pipeline"])["pipeline"]
    assert found.verdict == ("fail" if words else "pass"), found.detail
    assert (words or "") in found.detail


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("kind", [single_key.Tagged, single_key.Listed])
def test_restored_without_a_target_it_raises(kind, tmp_path):
    policy = single_key.Policy(single_key.wrapped(kind))
    ocp.PyTreeCheckpointer().save(tmp_path / "saved", policy.init(jax.random.key(0), OBS))
    restored = ocp.PyTreeCheckpointer().restore(tmp_path / "saved")
    with pytest.warns(UserWarning, match="unknown module paths"), pytest.raises((KeyError, AttributeError)):
        policy.apply(restored, OBS)


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
