"""A pipeline's own wrapper keeps its layer's state under names of its own, and sets the mode: as Kauldron's does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import own_wrappers as own
import pytest
from pipeline_standins.train_property import training

import runner

X = jnp.asarray(np.random.default_rng(7).standard_normal((4, 8)), jnp.float32) + 3
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
ASKED = ("complete", "mutable", "mode", "traps")


def failed(wrapper, layer=own.Told):
    found = runner.check(own.Host(wrapper, layer), X, only=ASKED, pipeline="kauldron")
    assert not [check.name for check in found if check.untested]
    return {check.name: check.detail for check in found if check.verdict == "fail"}


@pytest.mark.sampled
@pytest.mark.parametrize("wrapper", [own.Merging, own.Bare, own.Numbered, own.Switching])
def test_an_own_wrapper_that_keeps_passes(wrapper):
    assert failed(wrapper) == {}


@pytest.mark.slow
@pytest.mark.parametrize("layer", [own.Counts, own.Weighs])
def test_own_wrappers_of_other_layers_pass(layer):
    assert failed(own.Merging, layer) == {}


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("wrapper", "check", "words"),
    [
        (own.Forgetting, "complete", "batch_stats of block (norm/mean, norm/var) lies in the variables"),
        (own.ForgettingByNumber, "complete", "apply does not read it"),
        (own.Stateless, "complete", "the host does not keep batch_stats of block (norm/mean, norm/var)"),
        (own.Frozen, "mutable", "apply gives back the old value: the update is dropped"),
        (own.AlwaysTraining, "mode", "apply still trains block (dropout drops, norm counts)"),
        (own.DropoutOnly, "mode", "apply still trains block (norm counts)"),
        (own.ModeLess, "mode", "apply still trains block (dropout drops, norm counts)"),
    ],
)
def test_an_own_wrapper_that_loses_fails(wrapper, check, words):
    assert words in failed(wrapper)[check]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrapper", "checks"),
    [(own.Merging, []), (own.Numbered, []), (own.Stateless, ["complete", "mutable"]), (own.Frozen, ["mutable"])],
)
def test_an_own_wrapper_alone_is_judged(wrapper, checks):
    with training(True):
        found = runner.check(wrapper(own.Told), X, only=ASKED)
    assert [check.name for check in found if check.verdict == "fail" or check.untested] == checks


@pytest.mark.slow
@pytest.mark.parametrize(("wrapper", "checks"), [(own.Numbered, []), (own.ForgettingByNumber, ["complete"])])
def test_an_own_wrapper_is_judged_in_scans(wrapper, checks):
    found = runner.check(own.Stack(wrapper), X, only=["complete", "mutable"], pipeline="kauldron")
    assert [check.name for check in found if check.verdict == "fail" or check.untested] == checks


def trained(wrapper, steps=3):
    host = own.Host(wrapper)
    variables = jax.jit(host.init)(KEYS, X)
    step = jax.jit(lambda v, key: host.apply(v, X, rngs={"dropout": key}, mutable=True)[1])
    evaluate = jax.jit(lambda v, key: host.apply(v, X, train=False, rngs={"dropout": key}))
    for number in range(steps):
        variables = step(variables, jax.random.key(number))
    return variables, evaluate


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", [own.Merging, own.Bare, own.Numbered, own.Switching])
def test_the_healthy_wrappers_are_healthy(wrapper):
    (first, evaluate), (last, _) = trained(wrapper, 1), trained(wrapper, 3)
    one, other = (evaluate(last, jax.random.key(number)) for number in range(2))
    assert jnp.array_equal(one, other)
    assert not jnp.array_equal(evaluate(first, KEYS["dropout"]), one)
