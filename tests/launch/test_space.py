"""A search's space as Hydra's users type it: axes, what is fixed, and what has no meaning."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from runner.errors import UserError
from runner.launch.search import space
from runner.launch.search.space import Axis


def axis(typed: str) -> Axis:
    (found,), fixed = space.parse([f"x={typed}"], None)
    assert fixed == []
    return found


@pytest.mark.parametrize(
    ("typed", "bounds"),
    [
        ("interval(0,1)", {"low": 0.0, "high": 1.0}),
        ("interval(-1.5,-1e-3)", {"low": -1.5, "high": -1e-3}),
        ("tag(log,interval(1e-4,1))", {"low": 1e-4, "high": 1.0, "log": True}),
        ("int(interval(1,8))", {"low": 1, "high": 8, "whole": True}),
        ("tag(log,int(interval(1,8)))", {"low": 1, "high": 8, "whole": True, "log": True}),
        ("range(0,10)", {"low": 0, "high": 9, "step": 1, "whole": True}),
        ("range(4)", {"low": 0, "high": 3, "step": 1, "whole": True}),
        ("range(10,0,-3)", {"low": 1, "high": 10, "step": 3, "whole": True}),
        ("range(0,4000000000)", {"low": 0, "high": 3999999999, "step": 1, "whole": True}),
        ("range(0,1,0.25)", {"low": 0.0, "high": 0.75, "step": 0.25}),
        ("tag(log,range(1,9))", {"low": 1, "high": 8, "whole": True, "log": True}),
    ],
)
def test_numbers_have_their_bounds(typed, bounds):
    assert axis(typed) == Axis(key="x", typed=typed, **bounds)


@pytest.mark.parametrize(
    ("typed", "choices"),
    [
        ("a,b", ("a", "b")),
        ("choice(8,16)", ("8", "16")),
        ("choice([4],[4,4])", ("[4]", "[4,4]")),
        ("choice('a b',true)", ("a\\ b", "True")),
        ("choice(a,b,a)", ("a", "b")),
    ],
)
def test_choices_stay_as_they_were_typed(typed, choices):
    assert axis(typed).choices == choices


@pytest.mark.parametrize(
    "typed", ["range(0.1,1,0.1)", "range(0,1,0.3)", "range(1,2,0.07)", "range(3,9)", "range(1,9,3)"]
)
def test_ranges_match_hydra_sweeps(typed):
    override = OverridesParser.create().parse_override(f"x={typed}")
    found = axis(typed)
    values = [f"x={text}" for text in override.sweep_string_iterator()]
    assert [found.override(found.low + index * found.step) for index in range(len(values))] == values


def test_interval_values_round_trip_exactly():
    value = 0.1 + 0.2
    assert axis("interval(0,1)").override(value) == "x=0.30000000000000004"
    assert float(axis("interval(0,1)").override(value).partition("=")[2]) == value


def test_single_values_are_fixed_last_wins():
    axes, fixed = space.parse(["a=1", "b=1,2", "a=3", "+c=interval(0,1)", "b=interval(0,2)", "~d"], None)
    assert [(one.key, one.typed) for one in axes] == [("b", "interval(0,2)"), ("+c", "interval(0,1)")]
    assert axes[1].override(0.5) == "+c=0.5"
    assert fixed == ["a=3", "~d"]


def test_equivalent_spellings_give_equal_axes():
    assert axis("tag(log, interval(1e-4, 1.0))").data == axis("tag(log,interval(0.0001,1))").data
    assert axis("range(0,3)").data != axis("choice(0,1,2)").data


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("interval(1,0)", "an interval goes from a number to a greater one.\n  Try: x=interval(0,1)"),
        ("interval(0,inf)", "an interval goes from a number to a greater one.\n  Try: x=interval(0,1)"),
        (
            "tag(log,interval(0,1))",
            "a logarithm needs numbers above 0.\n  Try: 'x=tag(log,interval(1e-4,1))'",
        ),
        (
            "tag(log,range(1,9,2))",
            "a logarithmic axis has no steps.\n  Try: 'x=tag(log,interval(1,7))'",
        ),
        (
            "tag(lag,interval(0,1))",
            "the tag lag says nothing here; of an interval or a range there is log.\n"
            "  Try: 'x=tag(log,interval(1e-4,1))'",
        ),
        (
            "tag(log,choice(1,2))",
            "the tag log says nothing here; of an interval or a range there is log.\n"
            "  Try: 'x=tag(log,interval(1e-4,1))'",
        ),
        ("range(3,3)", "the search over it has no values.\n  Try: x=range(0,3)"),
    ],
)
def test_an_axis_without_meaning_is_refused(typed, said):
    with pytest.raises(UserError) as refused:
        axis(typed)
    assert str(refused.value) == f"x={typed}: {said}"


def test_a_space_without_axes_is_refused():
    with pytest.raises(UserError, match="no key has more than one value, so there is nothing to search"):
        space.parse(["a=1"], None)
