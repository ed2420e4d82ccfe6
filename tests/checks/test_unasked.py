"""What a check can't ask is a warning marked `untested`, whatever else it found to be right."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
import state_layers
import unasked_layers
from flax import nnx
from flax.nnx import bridge

import runner
from runner.bridge import hosts
from runner.records.record import Verdict

pytestmark = pytest.mark.usefixtures("any_hash_seed")

X = jnp.ones((2, 4))


def asked(name, model, **options):
    (check,) = runner.check(model, X, only=[name], **options)
    return check


def layer(name):
    return bridge.to_linen(getattr(unasked_layers, name))


def test_unreadable_python_state_is_untested():
    check = asked("mutable", layer("OneInstance"))
    assert (check.verdict, check.untested) == (Verdict.warn, True)
    assert check.detail.startswith(
        "could not be tested: whether the call keeps state in Python: RuntimeError: another instance is the one in use"
    )
    assert asked("mutable", layer("Plain")).verdict is Verdict.passed


def test_other_faults_still_fail():
    check = asked("mutable", layer("OneInstanceStops"))
    assert (check.verdict, check.untested) == (Verdict.fail, False)
    assert "another shape" in check.detail


@pytest.mark.filterwarnings("ignore")
def test_a_callback_that_raises():
    check = asked("pure", layer("CallsBack"))
    assert (check.verdict, check.untested) == (Verdict.warn, False)
    assert check.detail == "pure_callback raises RuntimeError: the server is gone: what it gives is not known"
    assert asked("pure", layer("Answers")).verdict is Verdict.passed


def test_a_source_that_can_not_be_read():
    names = {"nnx": nnx, "__name__": __name__}
    exec("class Typed(nnx.Linear):\n    pass", names)
    check = asked("pure", bridge.to_linen(names["Typed"], 4, 4))
    assert (check.verdict, check.untested) == (Verdict.warn, False)
    assert check.detail.endswith("whether a loop goes over a set of names: the source of Typed can't be read")


def test_calls_that_can_not_be_told_apart():
    check = asked("used", unasked_layers.CallsInTurn(layer("Plain")))
    assert (check.verdict, check.untested) == (Verdict.warn, True)
    assert asked("used", unasked_layers.Calls(layer("Plain"))).verdict is Verdict.passed


def test_the_method_that_is_called_is_asked():
    call = {"nnx_method": "encode"}
    assert asked("traps", layer("Encodes"), call=call).verdict is not Verdict.fail
    check = asked("traps", layer("EncodesOneWay"), call=call)
    assert check.verdict is Verdict.fail
    assert "dropout is in training mode in every call" in check.detail


@pytest.mark.parametrize(
    ("host", "name", "attribute"),
    [
        (hosts.MLPHost, "CountsCalls", "mine.calls"),
        (hosts.ScannedHost, "FillsList", "layers.mine.seen"),
        (state_layers.Calls, "RunsBareMean", "mine.mean"),
        (hosts.MLPHost, "CountsForNobody", None),
        (hosts.ScannedHost, "FillsCache", None),
    ],
)
def test_state_in_python_inside_a_host(host, name, attribute):
    inside = hosts.Maker(bridge.to_linen(getattr(state_layers, name)), "mine")
    check = asked("mutable", host(layer=inside))
    assert check.evidence.get("attributes") == (attribute and [attribute])
    assert check.verdict is (Verdict.fail if attribute else Verdict.passed)


def test_python_state_of_a_called_method():
    check = asked("mutable", unasked_layers.CountingHost(layer("CountsScaled")))
    assert check.evidence["attributes"] == ["layer.calls"]
    assert asked("mutable", unasked_layers.CountingHost(layer("KeepsNoCount"))).verdict is Verdict.passed
