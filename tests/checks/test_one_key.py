"""One key used more than once: in apply, in a loop, in init; and what only looks like it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import key_layers
import pytest
from flax.nnx import bridge
from key_layers import DISTRIBUTIONS, FAULTY, HEALTHY, Copied, Made, Scans, Stacked, of

from runner.checks import streams
from runner.checks.parts.one_key import FROM_STREAM, KEY_A_ROUND, KEY_EACH, SPLIT_RNGS
from runner.checks.probes.subject import subject_of
from runner.checks.programs import draws, reuse
from runner.records.record import Verdict

X = jnp.ones((2, 8))
IN_FILE = "key_layers.py:"


def checked(model):
    return streams.check(subject_of(model, X), full=False)


@pytest.mark.sampled
@pytest.mark.parametrize("use", FAULTY, ids=lambda use: use.__name__)
def test_a_key_used_twice_is_found(use):
    check = checked(of(use))
    assert check.verdict is Verdict.fail
    assert "from one key" in check.detail and IN_FILE in check.detail
    assert check.fix in (KEY_EACH, KEY_A_ROUND)


@pytest.mark.sampled
@pytest.mark.parametrize("use", HEALTHY, ids=lambda use: use.__name__)
def test_single_key_use_passes(use):
    check = checked(of(use))
    assert (check.verdict, check.evidence["shared"]) == (Verdict.passed, [])


@pytest.mark.parametrize("layer", [key_layers.KeepsKey, key_layers.KeepsKeyData, key_layers.KeepsSeed])
def test_a_kept_key_that_never_changes_fails(layer):
    check = checked(bridge.to_linen(layer))
    assert (check.verdict, check.fix) == (Verdict.fail, FROM_STREAM)
    assert "from Variable/key (key_layers.py:" in check.detail
    assert check.detail.endswith("which no call changes: what is drawn is the same at every call")


@pytest.mark.parametrize("layer", [key_layers.AdvancesKey, key_layers.FoldsStream, key_layers.KeepsDrawn])
def test_keys_that_change_pass(layer):
    assert checked(bridge.to_linen(layer)).verdict is Verdict.passed


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("times", [1, 2])
def test_each_jax_random_call_draws_once(name, times):
    def function(key, x):
        return [jnp.sum(DISTRIBUTIONS[name](key, (3, 4))) * x for _ in range(times)]

    closed = jax.make_jaxpr(function)(jax.random.key(0), 1.0)
    assert len(reuse.reused(draws.find(closed, ["key", "x"]))) == times - 1


def test_equal_masks_are_reported():
    detail = checked(of(key_layers.same_mask)).detail
    assert detail.startswith("2 draws of shape [2, 8] come from one key (key_layers.py:")
    assert detail.endswith("): their masks are equal")
    assert " in drop" in detail


def test_two_shapes_are_said_to_depend():
    detail = checked(of(key_layers.two_shapes)).detail
    assert detail.startswith("draws of shapes [2, 8] and [8] come from one key (key_layers.py:")
    assert detail.endswith(" in two_shapes): they depend on each other")


def test_loops_are_shown_how_to_split():
    check = checked(of(key_layers.fori_with_one_key))
    assert check.detail.startswith("[2, 8] is drawn from one key in every round (key_layers.py:")
    assert check.detail.endswith(" in drop): each round draws the same")
    assert check.fix == KEY_A_ROUND


def test_params_from_one_key_are_named():
    check = checked(bridge.to_linen(Made))
    assert (check.verdict, check.fix) == (Verdict.fail, KEY_EACH)
    assert check.detail.startswith("init draws params/first, params/second from one key (key_layers.py:")
    assert check.detail.endswith(": they start equal")
    check = checked(bridge.to_linen(Made, (4, 8)))
    assert check.detail.endswith(": what is drawn there is not independent")


@pytest.mark.parametrize(
    "model", [bridge.to_linen(Made, each=True), bridge.to_linen(Copied), bridge.to_linen(Stacked, each=True)]
)
def test_params_with_a_key_each_pass(model):
    assert checked(model).verdict is Verdict.passed


def test_stacks_from_one_key_are_found():
    check = checked(bridge.to_linen(Stacked))
    assert check.detail.startswith("init draws params/kernels from one key in every round (key_layers.py:")
    assert check.detail.endswith(": what is stacked starts equal")


@pytest.mark.slow
def test_scanned_layers_need_separate_masks():
    check = checked(Scans())
    assert (check.verdict, check.fix) == (Verdict.fail, SPLIT_RNGS)
    assert checked(Scans(split=True)).verdict is Verdict.passed


@pytest.mark.slow
def test_one_mask_for_all_steps_warns():
    check = checked(Scans(steps=True))
    assert (check.verdict, check.fix) == (Verdict.warn, SPLIT_RNGS)
    assert check.detail.endswith(
        ": each round draws the same, right only where that is meant, as for dropout with one mask for all steps"
    )
    assert checked(Scans(steps=True, split=True)).verdict is Verdict.passed
