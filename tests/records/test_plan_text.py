"""A plan's text is read as JSON is, whatever it holds; runs that differ in their seed share the rest."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

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


def outcome(text: bytes, reads: Any) -> str:
    """What a reader makes of a text, so that 1, 1.0 and true differ, as does the order of keys."""
    try:
        return repr(reads(text))
    except ValueError:
        return "refused"


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
    chance = random.Random(0)
    outcomes = set()
    for _ in range(400):
        place = chance.randrange(len(TEXT))
        piece = chance.choice([b"", b"{", b"}", b'"', b",", b"\n", b"0", TEXT[place : place + 40]])
        text = TEXT[:place] + piece + TEXT[place + chance.randrange(3) :]
        found = outcome(text, plan_text.loads_plan)
        assert found == outcome(text, codec.loads), text
        outcomes.add(found == "refused")
    assert outcomes == {True, False}


def test_no_plan_is_no_plan():
    for data in ([], {}, {"runs": 3}, {"runs": [{}]}, None):
        assert plan_text.loads_plan(json.dumps(data, indent=1).encode()) == data
