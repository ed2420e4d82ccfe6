"""The check `mode`: does a host's own evaluation switch reach the wrapped layers in it?"""

from __future__ import annotations

import jax.numpy as jnp
import mode_hosts as hosts
import pytest
from flax.nnx import bridge

from runner.checks import mode, traps
from runner.checks.probes.subject import subject_of
from runner.experiment import execute
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.records.record import Verdict

X = jnp.ones((2, 4))
BOTH = "layer (dropout drops, norm counts)"


def checked(host, **options):
    return mode.check(subject_of(host, X, **options), full=False)


@pytest.mark.parametrize(
    ("host", "said", "does"),
    [
        (hosts.Field(), "train=False", BOTH),
        pytest.param(hosts.Field(train=False), "train=False", BOTH, marks=pytest.mark.slow),
        (hosts.Field(hosts.DropoutOnly, hands_on=True), "train=False", "layer (norm counts)"),
        (hosts.Argument(), "deterministic=True", BOTH),
        pytest.param(
            hosts.Argument(hosts.NormOnly, hands_on=True),
            "deterministic=True",
            "layer (dropout drops)",
            marks=pytest.mark.slow,
        ),
        (hosts.Unusual(), "phase=True", BOTH),
        (hosts.Builds(), "train=False", "layer (it draws)"),
        (hosts.Learns(), "train=False", "layer (calls changes)"),
    ],
)
def test_a_switch_without_effect_fails(host, said, does):
    check = checked(host)
    assert (check.verdict, check.detail) == (
        Verdict.fail,
        f"with {said}, apply still trains {does}: what the host sets does not reach it",
    )


@pytest.mark.parametrize(
    "host",
    [
        hosts.Field(hands_on=True),
        pytest.param(hosts.Field(hosts.CountsCalls), marks=pytest.mark.slow),
        hosts.Field(hosts.Samples),
        pytest.param(hosts.Argument(hands_on=True), marks=pytest.mark.slow),
        hosts.Unusual(hands_on=True),
        hosts.Builds(hands_on=True),
        hosts.Learns(hands_on=True),
        hosts.Residual(),
        bridge.to_linen(hosts.Regular),
    ],
)
def test_a_switch_that_reaches_the_layer_passes(host):
    assert checked(host).verdict is Verdict.passed


def test_the_host_is_traced_as_called():
    assert checked(hosts.Argument(hands_on=True), call={"deterministic": False}).verdict is Verdict.passed
    assert checked(hosts.Argument(), call={"deterministic": False}).verdict is Verdict.fail


def test_the_fix_sets_the_layer_argument():
    assert checked(hosts.Argument()).fix == "layer(x, quiet=True)  # in the host, where it evaluates"
    assert checked(hosts.Builds()).fix == "bridge.to_linen(…, noisy=False)  # in the host, where it evaluates"
    assert checked(hosts.Argument(hosts.DropoutOnly)).fix is None


@pytest.mark.parametrize(
    ("layer", "more", "verdict"),
    [
        ("Regular", [], Verdict.warn),
        ("Regular", ["host.kwargs.train=false"], Verdict.fail),
        ("Regular", ["host.kwargs.train=false", "+layer.call.quiet=true"], Verdict.passed),
        pytest.param("Regular", ["host.kwargs.hands_on=true"], Verdict.passed, marks=pytest.mark.slow),
        pytest.param("DropoutOnly", [], Verdict.fail, marks=pytest.mark.slow),
    ],
)
def test_config_layers_may_set_their_argument(make_run, layer, more, verdict):
    run = make_run("layer=custom", f"layer.target=mode_hosts.{layer}", "host.target=mode_hosts.Thin", *more)
    check = mode.check(execute.subject(make_draft(run, identity_of(run)), run), full=False)
    assert check.verdict is verdict
    if verdict is Verdict.warn:
        assert check.fix == "host.kwargs.train=false layer.call.quiet=true"


@pytest.mark.slow
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
