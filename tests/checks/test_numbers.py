"""The checks of a run's own numbers: what they accept, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from runner.checks.results import verdicts
from runner.records.record import Verdict

ONE, TWO = np.ones((2, 3), np.float32), np.ones(4, np.int32)


@pytest.mark.parametrize(
    ("output", "wrong"),
    [
        ({"a": ONE, "b": TWO}, None),
        ({"a": ONE, "b": TWO, "c": ONE}, "c: got float32[2, 3], wanted None"),
        ({"a": ONE}, "b: got None, wanted int32[4]"),
        ({"a": ONE.T, "b": TWO}, "a: got float32[3, 2], wanted float32[2, 3]"),
        ({"a": ONE, "b": TWO.astype(np.int16)}, "b: got int16[4], wanted int32[4]"),
    ],
)
def test_outputs_are_as_traced_or_refused(output, wrong):
    found = verdicts.as_traced(output, {"a": ONE, "b": TWO})
    assert found.verdict is (Verdict.fail if wrong else Verdict.passed)
    assert found.detail == (wrong or "a float32[2, 3], b int32[4]")


def test_repeated_outputs_have_the_same_bits():
    again = ONE.copy()
    assert verdicts.repeatable({"y": ONE}, {"y": again}).verdict is Verdict.passed
    again[1, 2] = np.nextafter(again[1, 2], np.float32(2))
    assert verdicts.repeatable({"y": ONE}, {"y": again}).detail == "differs in y by 1 ulp"
    assert verdicts.repeatable({"y": ONE}, {"y": ONE, "z": ONE}).verdict is Verdict.fail


@pytest.mark.parametrize(("ulp", "verdict"), [(0, Verdict.passed), (64, Verdict.warn), (200, Verdict.fail)])
def test_eager_rounding_is_a_warning(ulp, verdict):
    same, moved = {"y": ONE}, {"y": ONE + np.float32(ulp) * np.finfo(np.float32).eps}
    assert verdicts.eager((same, same), (same, moved)).verdict is verdict
    assert verdicts.eager((same, moved), (same, same)).verdict is verdict
