"""Which number of a run its study gets."""

from __future__ import annotations

import dataclasses
import math

import pytest
from bare_record import RECORD

from runner.launch.search.tell import Teller
from runner.records import metrics
from runner.records.record import Status, TrainInfo
from runner.records.timing import Phases

TRAINED = TrainInfo(
    first_step=0,
    losses=[2.0, 0.5],
    step=Phases(trace_s=0.0, lower_s=0.0, compile_s=0.0, cache="off"),
    steps_s=[],
    not_moved=[],
)


@pytest.mark.parametrize(
    ("status", "train", "value"),
    [
        (Status.done, TRAINED, 0.5),
        (Status.failed, TRAINED, None),
        (Status.done, dataclasses.replace(TRAINED, losses=[2.0, math.nan]), None),
        (Status.done, dataclasses.replace(TRAINED, losses=[2.0, math.inf]), math.inf),
        (Status.done, None, None),
    ],
)
def test_a_study_gets_numbers_of_done_runs(status, train, value):
    teller = Teller(None, None, metrics.find("loss_last", "search.objective"), None)
    assert teller.value(dataclasses.replace(RECORD, status=status, train=train)) == value
