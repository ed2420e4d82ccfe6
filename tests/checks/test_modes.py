"""What the check `traps` says of layers that are always in training mode, and of those that only look so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
import state_layers
from flax.nnx import bridge

from runner.checks import traps
from runner.checks.probes.subject import subject_of
from runner.records.record import Verdict

X = jnp.ones((2, 4))


def checked(name):
    return traps.check(subject_of(bridge.to_linen(getattr(state_layers, name)), X), full=True)


@pytest.mark.parametrize(
    ("name", "owner", "attribute"),
    [
        ("AlwaysDrops", "dropout", "deterministic"),
        ("IgnoresTrain", "dropout", "deterministic"),
        ("AlwaysCounts", "norm", "use_running_average"),
    ],
)
def test_a_mode_that_nothing_switches_fails(name, owner, attribute):
    check = checked(name)
    assert (check.verdict, check.detail) == (
        Verdict.fail,
        f"{owner} is in training mode in every call, and nothing switches it: no argument of the call or the "
        f"constructor, and no factory that sets {owner}.{attribute}",
    )
    assert check.fix == f"self.{owner}(x)  # in the call, without {attribute}"


@pytest.mark.parametrize("name", ["Drops", "SpectralInside", "NeverCounts", "DropsUnused", "DropsAtRate"])
def test_switchable_modes_do_not_fail(name):
    verdict = Verdict.warn if name in ("Drops", "DropsAtRate") else Verdict.passed
    assert checked(name).verdict is verdict


def test_rate_0_fixes_always_active_dropout():
    check = checked("DropsAtRate")
    assert check.detail == "dropout drops in every call: an evaluation needs a layer of its own, with rate=0"
    names = {"layer": bridge.to_linen(state_layers.DropsAtRate)}
    exec(check.fix, names)
    output = names["test"].apply({}, X, rngs={"dropout": jax.random.key(1)})
    assert bool((output == X).all())
