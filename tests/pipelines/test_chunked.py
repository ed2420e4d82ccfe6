"""A stand-in for EasyLM with an NNX feed_forward: what holds, and what the checks say of the faults that bite there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from pipeline_files import write_easylm
from pipeline_standins import chunked

import runner
from tests.pipelines import typed
from tests.pipelines.compared import require_equal_bits

TOKENS = jnp.arange(16, dtype=jnp.int32).reshape(2, 8)
TRACED = ("complete", "mutable", "trained", "rules")


@pytest.fixture(scope="module")
def old():
    """Variables of the model with its own feed_forward."""
    return chunked.Model().init(dict.fromkeys(chunked.STREAMS, jax.random.key(0)), TOKENS)


def verdicts(kind, *, chunks=0, only=TRACED, **options):
    model = chunked.Model(chunked.Made(kind), chunks)
    report = runner.check(model, TOKENS, pipeline="easylm", rules=chunked.RULES, only=only, **options)
    return {check.name: check.verdict.value for check in report}


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [0, 2])
def test_replaced_feed_forward_is_bit_equal(chunks, old):
    outputs = [
        model.apply(old, TOKENS, deterministic=True)
        for model in (chunked.Model(chunks=chunks), chunked.Migrated(chunks=chunks))
    ]
    require_equal_bits(*outputs)


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [0, 2])
def test_a_healthy_feed_forward_passes(chunks):
    assert set(verdicts(chunked.SwiGLU, chunks=chunks).values()) == {"pass"}


@pytest.mark.slow
def test_statistics_are_lost_in_a_chunked_scan():
    assert verdicts(chunked.Normed, chunks=2)["complete"] == "fail"


@pytest.mark.slow
def test_statistics_are_trained_and_never_kept():
    found = verdicts(chunked.Normed)
    assert (found["complete"], found["mutable"], found["trained"]) == ("pass", "fail", "fail")


@pytest.mark.slow
def test_own_names_meet_the_last_rule():
    model = chunked.Model(chunked.Made(chunked.Gated))
    report = runner.check(model, TOKENS, pipeline="easylm", rules=chunked.RULES, only="rules")
    assert "of the layer only the catch-all '.*': P(None)" in report["rules"].detail


@pytest.mark.slow
def test_a_deaf_dropout_is_named_in_evaluation():
    only = ("mode", "traps")
    stuck, healthy = (
        verdicts(kind, only=only, call={"deterministic": True}) for kind in (chunked.Stuck, chunked.SwiGLU)
    )
    assert "fail" in stuck.values()
    assert "fail" not in healthy.values()


@pytest.mark.slow
def test_streams_compare_with_the_new_model(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_easylm(tmp_path / "streaming_params", old["params"])
    module = "pipeline_standins.chunked"
    sides = (f"{module}:Model()@streaming_params", f"{module}:Migrated()")
    said = typed.run("diff", *sides, "--input", "[2,8]", "--input-dtype", "int32")
    assert said.code == 0, said.text


@pytest.mark.slow
def test_three_steps_keep_the_bits(old):
    states = []
    for model in (chunked.Model(), chunked.Migrated()):
        state = chunked.train_state(old)
        for key in jax.random.split(jax.random.key(1), 3):
            state = jax.jit(chunked.step, static_argnums=0)(model, state, TOKENS, key)
        states.append((state.params, state.opt_state))
    require_equal_bits(*states)
