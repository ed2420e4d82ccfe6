"""A stand-in for big_vision with an NNX MLP: what holds, and what the checks say of the faults that bite there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from pipeline_standins import masked

import runner
from tests.pipelines import typed
from tests.pipelines.compared import require_equal_bits

X = jnp.linspace(-1.0, 1.0, 64).reshape(2, 4, 8)
TRACED = ("complete", "mutable", "rules", "mode")


@pytest.fixture(scope="module")
def old():
    """Params of the encoder with its own MlpBlock."""
    return masked.Encoder().init(jax.random.key(0), X)["params"]


def verdicts(kind):
    encoder = masked.Encoder(masked.wrapped(kind))
    report = runner.check(encoder, X, pipeline="big_vision", only=TRACED)
    return {check.name: check.verdict.value for check in report}


@pytest.mark.slow
def test_a_healthy_mlp_passes():
    assert set(verdicts(masked.Mlp).values()) == {"pass"}


@pytest.mark.slow
def test_statistics_are_lost_in_the_scan():
    assert verdicts(masked.Normed)["complete"] == "fail"


@pytest.mark.slow
def test_matrices_without_decay_are_named():
    params = masked.Encoder(masked.wrapped(masked.Named)).init(jax.random.key(0), X)["params"]
    assert masked.decayed(params) == set()
    assert verdicts(masked.Named)["rules"] == "warn"


@pytest.mark.slow
def test_joined_integer_keys_fail():
    params = masked.Encoder(masked.wrapped(masked.Listed)).init(jax.random.key(0), X)["params"]
    with pytest.raises(TypeError):
        masked.flat(params)
    assert verdicts(masked.Listed)["rules"] == "fail"


@pytest.mark.slow
def test_an_npz_goes_into_the_new_encoder(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    masked.save_npz("old.npz", old)
    module = "pipeline_standins.masked"
    said = typed.run("diff", f"{module}:Encoder()@old.npz", f"{module}:Migrated()", "--input", "[2,4,8]")
    assert said.code == 0, said.text
    fresh = masked.Migrated().init(jax.random.key(1), X)["params"]
    restored = masked.load_npz("old.npz", fresh)
    require_equal_bits(restored, old)
    require_equal_bits(*(model.apply({"params": restored}, X) for model in (masked.Encoder(), masked.Migrated())))
