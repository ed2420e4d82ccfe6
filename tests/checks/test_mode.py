"""The check `mode`: does a host's own evaluation switch reach the wrapped layers in it?"""

from __future__ import annotations

import jax.numpy as jnp
import mode_hosts as hosts
import pytest
from flax.nnx import bridge

from runner.checks import mode, traps
from runner.checks.probes.subject import subject_of
from runner.records.record import Verdict

X = jnp.ones((2, 4))
BOTH = "layer (dropout drops, norm counts)"


def checked(host, **options):
    return mode.check(subject_of(host, X, **options), full=False)


@pytest.mark.parametrize(
    ("host", "said", "does"),
    [
        (hosts.Field(), "train=False", BOTH),
        (hosts.Field(train=False), "train=False", BOTH),
        (hosts.Field(hosts.DropoutOnly, hands_on=True), "train=False", "layer (norm counts)"),
        (hosts.Argument(), "deterministic=True", BOTH),
        (hosts.Argument(hosts.NormOnly, hands_on=True), "deterministic=True", "layer (dropout drops)"),
        (hosts.Unusual(), "phase=True", BOTH),
        (hosts.Builds(), "train=False", "layer (it draws)"),
        (hosts.Learns(), "train=False", "layer (calls changes)"),
    ],
)
def test_a_switch_that_leaves_the_layer_training_fails(host, said, does):
    check = checked(host)
    assert (check.verdict, check.detail) == (
        Verdict.fail,
        f"with {said}, apply still trains {does}: what the host sets does not reach it",
    )


@pytest.mark.parametrize(
    "host",
    [
        hosts.Field(hands_on=True),
        hosts.Field(hosts.CountsCalls),
        hosts.Field(hosts.Samples),
        hosts.Argument(hands_on=True),
        hosts.Unusual(hands_on=True),
        hosts.Builds(hands_on=True),
        hosts.Learns(hands_on=True),
        hosts.Residual(),
        bridge.to_linen(hosts.Regular),
    ],
)
def test_a_switch_that_reaches_the_layer_passes(host):
    assert checked(host).verdict is Verdict.passed


def test_the_host_is_asked_as_it_is_called():
    assert checked(hosts.Argument(hands_on=True), call={"deterministic": False}).verdict is Verdict.passed
    assert checked(hosts.Argument(), call={"deterministic": False}).verdict is Verdict.fail


def test_the_fix_gives_the_layer_its_own_argument():
    assert checked(hosts.Argument()).fix == "layer(x, quiet=True)  # in the host, where it evaluates: layer"
    assert checked(hosts.Argument(hosts.DropoutOnly)).fix is None


@pytest.mark.parametrize(
    ("layer", "verdict", "words"),
    [
        (hosts.Regular, Verdict.passed, "train and eval within reach"),
        (hosts.DropoutOnly, Verdict.fail, "quiet=True of the call stops dropout, and norm still trains"),
        (hosts.NormOnly, Verdict.fail, "quiet=True of the call stops norm, and dropout still trains"),
    ],
)
def test_an_argument_counts_by_what_it_reaches(layer, verdict, words):
    for model in (bridge.to_linen(layer), hosts.Residual(layer)):
        check = traps.check(subject_of(model, X), full=True)
        assert check.verdict is verdict
        assert words in check.detail
