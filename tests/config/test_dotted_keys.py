"""Tests of configs as JSON data with dotted keys."""

import copy
import json

import pytest

from runner.config.dotted_keys import MAX_FAMILIES, exact, settings_text, shared

SETTINGS = {"layer": {"name": "mlp", "kwargs": {"b": [1, 2.5, None]}}, "seed": 3, "device": "auto", "note": "Zoë"}


@pytest.mark.parametrize(
    "settings",
    [
        *({**SETTINGS, "seed": seed} for seed in (3, 3, 4, "${oc.env:SEED}", None)),
        *({**SETTINGS, "device": device} for device in (True, 1, 1.0, "1", -0.0, 0.0)),
        {"seed": 1},
        {"device": "auto"},
        {"device": "auto", "seed": 1},
        {},
    ],
)
def test_settings_text_is_that_of_json(settings):
    assert settings_text(settings) == json.dumps(settings)


def test_equal_data_have_one_exact_key():
    assert exact(SETTINGS) == exact(copy.deepcopy(SETTINGS)) == exact(json.loads(json.dumps(SETTINGS)))


@pytest.mark.parametrize("other", [{"seed": 3.0}, {"seed": True}, {"note": "Zoe"}, {"more": None}])
def test_other_types_have_other_exact_keys(other):
    assert exact(SETTINGS) != exact({**SETTINGS, **other})


def test_what_is_no_json_has_a_key():
    assert exact({"a": object}) == exact({"a": object}) != exact({"a": type})


def test_shared_data_are_looked_at_once():
    made = []
    look = shared(lambda data: made.append(data) or exact(data))
    group = {"scale": 1.0, "note": "x" * 3}
    first = {"layer": group, "steps": 1}
    assert look(first) == look(dict(first)) == exact(first)
    assert len(made) == 1
    for other in ({"layer": dict(group), "steps": 1}, {"layer": group, "steps": True}, {"steps": 1, "layer": group}):
        assert look(other) == exact(other)
    assert len(made) == 4


def test_forgotten_data_are_looked_at_again():
    look = shared(exact)
    for num in range(2 * MAX_FAMILIES):  # made and gone, so that the next may lie in the same place
        assert look({"layer": {"scale": num}}) == exact({"layer": {"scale": num}})
