"""Planted faults are found, healthy layers are left alone, and docs/reference/faults.md says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_faults import CASES

from tests.benchmarks import faults

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "faults.md"


HEALTHY = [name for name, case in CASES.items() if case.words is None]
# By every check, which takes three times as long; the benchmark takes them all.
WHOLE = HEALTHY[::12]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_case_is_judged_right(name):
    case = CASES[name]
    found = faults.outcome(case, traced=name not in WHOLE)
    if case.words is not None and not found.is_right(case):
        found = faults.outcome(case)
    assert found.is_right(case), (found.code, found.failed, found.text[-2000:])


def test_page_has_every_case():
    text = PAGE.read_text()
    assert [case.planted for case in CASES.values() if f"| {case.planted} |" not in text] == []
    assert "**missed**" not in text
    assert "**false alarm**" not in text


def test_page_counts_misses_and_alarms():
    fault, healthy = CASES["OwnSeed"], CASES["ConstantInit"]
    text = faults.page([fault, healthy], [faults.Outcome(0, (), ""), faults.Outcome(1, ("seeded",), "")])
    assert "Of 1 faults 0 are found; of 1 healthy ones 1 fail." in text
    assert "| seeded | 0 | 1 |" in text
    assert "| – | **missed** |" in text
    assert "| **false alarm**: seeded |" in text
