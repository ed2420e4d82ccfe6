"""Overrides of axis names by path in the check `rules` and in `diff`: T5X's params_axes_names_override."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from ruled_layers import Net

import runner
from runner.checks.pipeline.overrides import COMPARE
from runner.commands import main
from runner.records.record import Verdict

X = jnp.ones((2, 4))
UP, DOWN = (".*ff/up/kernel", ("embed", "mlp")), (".*ff/down/kernel", ("mlp", "embed"))
OTHERS = ("decoder/.*/up/kernel", ("embed", "mlp")), (".*/attention/.*", ("embed",))


def asked(layer, *overrides):
    rules = {"partition": list(overrides), "match": "override"}
    return runner.check(Net(layer), X, rules=rules, only=["rules"])["rules"]


def said(capsys, new, *overrides):
    pairs = ",".join(f"[{pattern},[{','.join(names)}]]" for pattern, names in overrides)
    words = (f"rules.partition=[{pairs}]", "rules.match=override", "--input", "[2,4]")
    code = main.main(["diff", "ruled_layers:Net()", new, *words])
    lines = capsys.readouterr().out.partition("\nrules: ")[2].partition("\n\n")[0].splitlines()
    return code, [line.strip() for line in lines]


@pytest.mark.parametrize("overrides", [(UP, DOWN), (UP, *OTHERS), OTHERS, ((".*/bias", ("mlp",)),)])
def test_leaves_without_an_override_pass(overrides):
    check = asked("Known", *overrides)
    assert check.verdict is Verdict.passed, check.detail


def test_overrides_that_match_nothing_are_warned_of():
    check = asked("Renamed", UP, (".*head/kernel", ("mlp", "vocab")), *OTHERS)
    assert (check.verdict, check.fix) == (Verdict.warn, COMPARE)
    assert check.detail == (
        "'.*ff/up/kernel' matches nothing, and params/ff/w_in, params/ff/w_out of the layer meet no override and keep "
        "their own axis names"
    )


@pytest.mark.parametrize("names", [("mlp",), ("layers", "embed", "mlp")])
def test_an_override_of_another_rank_fails(names):
    check = asked("Known", (".*ff/up/kernel", names))
    assert check.verdict is Verdict.fail
    assert check.detail.startswith("params/ff/up/kernel has 2 axes, and the rule '.*ff/up/kernel'")


def test_overrides_for_another_layer_say_nothing():
    assert asked("Renamed", *OTHERS).verdict is Verdict.passed


def test_diff_names_the_override_of_the_old_leaf(capsys):
    code, lines = said(capsys, 'ruled_layers:Net("Renamed")', UP, DOWN)
    assert code == 1
    assert lines[:2] == [
        "warn: params/ff/w_in meets no override, where params/ff/up/kernel in its place meets '.*ff/up/kernel': "
        "P('embed', 'mlp')",
        "params/ff/w_out meets no override, where params/ff/down/kernel in its place meets '.*ff/down/kernel': "
        "P('mlp', 'embed')",
    ]
    assert "fix  ('(.*/)?ff/w_in$', ('embed', 'mlp')),  # one more override" in lines
    assert said(capsys, 'ruled_layers:Net("Known")', UP, DOWN)[1][0].startswith("2 of ")


def test_the_override_that_diff_says_is_taken(capsys):
    more = (r".*/?ff/w_in$", ("embed", "mlp")), (r".*/?ff/w_out$", ("mlp", "embed"))
    assert "meets no override" not in " ".join(said(capsys, 'ruled_layers:Net("Renamed")', *more, UP, DOWN)[1])
