"""What a record keeps of the values that its config took from the environment: the names of their variables."""

from __future__ import annotations

import dataclasses

from bare_record import RECORD

from runner.config.env_secrets import Redaction
from runner.records import redaction
from runner.records.codec import to_json
from runner.records.record import Check, Failure, FailureKind, Status, TrainInfo, Verdict
from runner.records.timing import Phases

SECRET, NAME = "my-secret", "${oc.env:MINE}"


PLANTED = {str: SECRET, list: [SECRET], dict: {SECRET: [SECRET]}}
STEP = Phases(trace_s=1.0, lower_s=1.0, compile_s=1.0, cache="off", first_call_s=None)
TRAIN = TrainInfo(first_step=0, losses=[], step=STEP, steps_s=[], not_moved=[], remarks=[SECRET])


def test_no_text_of_a_record_is_left_out():
    texts = {
        item.name: PLANTED[type(getattr(RECORD, item.name))]
        for item in dataclasses.fields(RECORD)
        if type(getattr(RECORD, item.name)) in PLANTED and item.name not in ("variables", "updated", "settings")
    }
    found = redaction.redacted(dataclasses.replace(RECORD, train=TRAIN, **texts), Redaction({"MINE": SECRET}))
    assert {name for name in texts if SECRET in repr(getattr(found, name))} == set()
    assert {name for name in texts if NAME not in repr(getattr(found, name))} == set()
    assert found.train.remarks == [NAME]


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
