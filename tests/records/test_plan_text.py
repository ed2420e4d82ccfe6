"""A plan's text is read as JSON is, whatever it holds; runs that differ in their seed share the rest."""

from __future__ import annotations

import json

import pytest
from texts_read_alike import outcome, require_alike_where_damaged

from runner.records import codec, plan_text

PLAN = {
    "plan_version": 1,
    "runs": [
        {
            **{"num": num, "run_id": f"{num:04}", "overrides": ["a=100%s", '"settings": {']},
            "settings": {"seed": num // 2, "features": 8 + num % 2, "layer": {"seed": 5, "kwargs": {"x": "50 % 2"}}},
        }
        for num in range(6)
    ],
}
TEXT = codec.data_to_json(PLAN)
FIRST = b'"seed": 0,\n    "features": 8'


@pytest.fixture(autouse=True)
def however_small(monkeypatch):
    monkeypatch.setattr(plan_text, "SMALL_BYTES", 0)


def test_equal_settings_are_read_once():
    runs = plan_text.loads_plan(TEXT)["runs"]
    assert repr(runs) == repr(PLAN["runs"])
    assert runs[0]["settings"]["layer"] is runs[2]["settings"]["layer"]
    assert runs[0]["settings"] is not runs[2]["settings"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (FIRST, b'"seed": -7,\n    "features": 8'),
        (FIRST, b'"seed": "SEED",\n    "features": 8'),
        (FIRST, b'"seed": 01,\n    "features": 8'),
        (FIRST, b'"seed": 0.0,\n    "features": 8'),
        (FIRST, b'"seed": 99999999999999999999999,\n    "features": 8'),
        (FIRST, b'"seed": 0,\n    "seed": 4,\n    "features": 8'),
        (FIRST, b'"features": 8'),
        (FIRST, b'"inner": {\n    "seed": 4},\n    "features": 8'),
        (b'"num": 1', b'"settings": {},\n   "num": 1'),
        (b'"num": 1', b'"settings": "x",\n   "num": 1'),
        (b'"plan_version": 1', b'"plan_version": {\n   "settings": {\n   }}'),
        (b'"runs"', b'"walks"'),
        (b"\n", b""),
        (b"\n", b"\r\n"),
        (b"50 % 2", rb"\ud800"),
    ],
)
def test_other_plans_are_read_alike(old, new):
    text = TEXT.replace(old, new)
    assert text != TEXT
    assert outcome(text, plan_text.loads_plan) == outcome(text, codec.loads)


def test_damaged_plans_are_read_alike():
    require_alike_where_damaged(plan_text.loads_plan, codec.loads, [TEXT], likely=b'"settings"')


def test_no_plan_is_no_plan():
    for data in ([], {}, {"runs": 3}, {"runs": [{}]}, None):
        assert plan_text.loads_plan(json.dumps(data, indent=1).encode()) == data
