"""What a record keeps of the values that its config took from the environment: the names of their variables."""

from __future__ import annotations

import dataclasses

from bare_record import RECORD

from runner.config.env_secrets import Redaction
from runner.records import redaction
from runner.records.codec import to_json
from runner.records.record import Check, Failure, FailureKind, Status, Verdict

SECRET, NAME = "my-secret", "${oc.env:MINE}"


def test_records_contain_no_secrets():
    record = dataclasses.replace(
        RECORD,
        status=Status.failed,
        overrides=[f"a={SECRET}"],
        settings={"layer": {"kwargs": {"key": SECRET}}},
        checks=[
            Check(name="finite", verdict=Verdict.fail, detail=SECRET, fix=f"x={SECRET}", evidence={"at": [SECRET]})
        ],
        error=Failure(kind=FailureKind.other, type="ValueError", message=SECRET, traceback=f"line\n{SECRET}"),
    )
    found = redaction.redacted(record, Redaction({"MINE": SECRET}))
    assert SECRET.encode() not in to_json(found)
    assert (found.overrides, found.checks[0].fix, found.checks[0].detail) == ([f"a={NAME}"], f"x={NAME}", NAME)
