"""Strict runs: which checks refuse a run, and that each of them does."""

from __future__ import annotations

import dataclasses

import pytest

from runner.checks import registry
from runner.checks.results.verdicts import STRICT
from runner.experiment import execute
from runner.experiment.draft import make_draft
from runner.experiment.failures import CheckFailed
from runner.experiment.identity import identity_of
from runner.records.record import Check, Verdict

# A layer that fails the check, of those that only trace.
FAULTY = {
    "complete": "state_layers.ListedWeights",
    "nothing_invented": "planted_faults.DropoutOwnRngs",
    "streams": "planted_faults.OneKeyTwice",
    "mutable": "state_layers.CountsCalls",
    "seeded": "planted_faults.OwnSeed",
    "used": "state_layers.ReturnsNothing",
    "pure": "impure_layers.NumpyParam",
}

# Of a run's own numbers.
OF_NUMBERS = {"finite", "as_traced", "repeatable"}


# Of how the pipeline and its host use it: tested with those.
OF_PIPELINES = {"mode", "axes", "rules", "pipeline"}


def test_the_checks_that_refuse_a_run():
    assert OF_NUMBERS | OF_PIPELINES | FAULTY.keys() == STRICT


@pytest.mark.sampled
@pytest.mark.parametrize("name", FAULTY)
def test_a_strict_run_is_refused(name, make_run):
    width = 8 if FAULTY[name].startswith("planted") else 4
    run = make_run("layer=custom", f"layer.target={FAULTY[name]}", f"input_shape=[2,{width}]")
    with pytest.raises(CheckFailed) as caught:
        execute.run_checks(make_draft(run, identity_of(run)), run)
    assert caught.value.check.name == name


def refused(run, **check):
    """Whether a check with these values ends a run that is strict."""
    try:
        execute._refuse(Check(detail="", **check), [], run)
    except CheckFailed:
        return True
    return False


@pytest.mark.parametrize(
    ("values", "more"),
    [({}, set()), ({"train": {"steps": 2}}, {"trained"}), ({"pipeline": {"name": "t5x"}}, {"trained"})],
)
def test_fails_refuse_where_numbers_are_wrong(values, more, make_run):
    run = make_run()
    groups = {name: dataclasses.replace(getattr(run, name), **new) for name, new in values.items()}
    run = dataclasses.replace(run, **groups)
    names = {*registry.TRACED, *registry.FULL, *OF_NUMBERS, "eager", "one_device"}
    assert {name for name in names if refused(run, name=name, verdict=Verdict.fail)} == STRICT | more
    assert not [name for name in names if refused(run, name=name, verdict=Verdict.warn)]
    assert all(refused(run, name=name, verdict=Verdict.warn, untested=True) for name in names)
