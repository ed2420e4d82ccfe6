"""What the check `complete` says of weights that lie in no variables, and of tables that look like them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import state_layers
from flax.nnx import bridge

from runner.checks import complete
from runner.checks.probes.randomness import is_surely_random
from runner.checks.probes.subject import subject_of
from runner.records.record import Verdict

X = jnp.ones((2, 4))
RANDOM = np.random.default_rng(1)


def checked(name):
    return complete.check(subject_of(bridge.to_linen(getattr(state_layers, name)), X), full=False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ClassParam", "ClassParam.scale is an nnx.Param outside of the module"),
        ("FileWeight", "W is an array float32[4, 8] of drawn numbers"),
        ("ListedWeights", "ListedWeights.weights[0] is an array float32[4, 8] of drawn numbers, "),
        ("HidesInObject", "box is no tree and holds an nnx.Param"),
        ("HidesInFunction", "act is no tree and holds an nnx.Param"),
        ("HidesModule", "act is no tree and holds an nnx.Param"),
        ("HeadOfTheFile", "SMALL_HEAD.bias is an nnx.Param outside of the module, SMALL_HEAD.kernel is an nnx.Param"),
    ],
)
def test_a_weight_in_no_variables_fails(name, words):
    check = checked(name)
    assert check.verdict is Verdict.fail
    assert check.detail.startswith(words)
    assert check.detail.endswith(": in no variables, so never trained, saved or restored, and the same for every seed")


@pytest.mark.parametrize(
    "name", ["OwnTables", "LoadsWeight", "CachesNumpy", "HoldsWhatFunctionReads", "SizesOfTheFile"]
)
def test_a_table_of_constants_passes(name):
    assert checked(name).verdict is Verdict.passed


def test_the_fix_of_a_hidden_param_is_a_place_in_the_module():
    assert checked("HidesInObject").fix == (
        "self.weight = nnx.Param(…)  # an attribute of the module itself, or of an nnx.Module in it"
    )


@pytest.mark.parametrize("shape", [(4, 8), (8, 8), (3, 3, 3, 4), (64, 16)])
def test_drawn_numbers_look_drawn(shape):
    assert is_surely_random(RANDOM.normal(size=(256, 256)))
    assert sum(is_surely_random(RANDOM.normal(size=shape).astype(np.float32)) for _ in range(10)) >= 5


@pytest.mark.parametrize(
    "table",
    [
        np.vander(np.linspace(-1, 1, 8), 8),
        np.outer(np.hanning(8), np.hanning(8)),
        np.sin(np.arange(64)[:, None] / 10000 ** (np.arange(32) / 32)),
        np.log(np.arange(1, 65)).reshape(8, 8),
        np.eye(8),
        RANDOM.normal(size=8),
    ],
    ids=["vander", "window", "positions", "logarithms", "identity", "vector"],
)
def test_a_table_does_not_look_drawn(table):
    assert not is_surely_random(table)


def test_a_type_that_gives_another_value_than_it_holds_fails():
    check = checked("ScalesByType")
    assert (check.verdict, check.evidence) == (Verdict.fail, {"transformed": ["scale"]})
    assert check.detail == (
        "scale gives another value than what is held, since its type has a get_value: the bridge stores what is given, "
        "apply holds that, and so it is transformed once more at every call"
    )
    assert check.fix == "y = jnp.exp(self.scale[...])  # for example: in the call, and no get_value in the type"
    for name in ("ScalesUnchanged", "ScalesInCall"):
        assert checked(name).verdict is Verdict.passed
    model = bridge.to_linen(state_layers.ScalesByType)
    output, variables = model.init_with_output(jax.random.key(0), X)
    assert not jnp.allclose(model.apply(variables, X), output)
