"""What a record keeps of the values that its config took from the environment: the names of their variables."""

from __future__ import annotations

from runner.config.env_secrets import Redaction
from runner.records import redaction
from runner.records.codec import to_json
from runner.records.record import Check, Failure, FailureKind, Record, Status, Verdict

SECRET, NAME = "my-secret", "${oc.env:MINE}"


def test_records_contain_no_secrets():
    record = Record(
        run_id="r",
        result_id="x",
        timing_id="t",
        program_id="p",
        sweep="s",
        num=3,
        status=Status.failed,
        started_at="2026-01-01T00:00:00.000+00:00",
        wall_s=0.1,
        overrides=[f"a={SECRET}"],
        settings={"layer": {"kwargs": {"key": SECRET}}},
        layer="linear",
        device="cpu:0",
        platform="cpu",
        checks=[
            Check(name="finite", verdict=Verdict.fail, detail=SECRET, fix=f"x={SECRET}", evidence={"at": [SECRET]})
        ],
        error=Failure(kind=FailureKind.other, type="ValueError", message=SECRET, traceback=f"line\n{SECRET}"),
    )
    found = redaction.redacted(record, Redaction({"MINE": SECRET}))
    assert SECRET.encode() not in to_json(found)
    assert (found.overrides, found.checks[0].fix, found.checks[0].detail) == ([f"a={NAME}"], f"x={NAME}", NAME)
