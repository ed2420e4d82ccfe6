"""What a search can look for: every number of a record has a name, and a name that means nothing is answered."""

from __future__ import annotations

import dataclasses
import re

import pytest
from tracked_records import make_array, make_record

from runner.errors import ConfigError
from runner.records import metrics
from runner.records.columns import COLUMNS, results_row
from runner.records.record import CheckpointInfo, TrainInfo

PHASES = make_record().timing.init
TRAIN = TrainInfo(first_step=0, losses=[3.0, 2.0, 1.5], step=PHASES, steps_s=[0.1, 0.2, 0.3], not_moved=[])
RECORD = make_record(
    train=TRAIN, checkpoint=CheckpointInfo(path="checkpoint", digest="d", num_bytes=99, writer="orbax")
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timing.apply_latency.summary.median_s", 2e-6),
        ("timing.apply_latency.median_s", 2e-6),
        ("timing.apply.median_s", 2e-6),
        ("timing.apply.compile_s", 0.3),
        ("timing.apply_latency.samples.durations_s.2", 4e-6),
        ("train.losses.0", 3.0),
        ("train.losses.-1", 1.5),
        ("train.losses[-1]", 1.5),
        ("timing.apply_latency.samples.durations_s[2]", 4e-6),
        ("output[0].norm", 2.0),
        ("output.0.norm", 2.0),
        ("variables.0.num_bytes", 128.0),
        ("checkpoint.num_bytes", 99.0),
        ("wall_s", 1.5),
        ("num_params", 32.0),
    ],
)
def test_record_paths_yield_numbers(name, value):
    assert metrics.find(name, "search.objective").of(RECORD) == value


@pytest.mark.parametrize("name", [name for name, column in COLUMNS.items() if column.type in ("double", "int64")])
def test_result_columns_yield_numbers(name):
    assert metrics.find(name, "search.objective").of(RECORD) == results_row(RECORD)[name]


@pytest.mark.parametrize(
    "name", ["train.losses.3", "train.losses.-4", "train.losses[7]", "output.1.norm", "timing.init.median_s"]
)
def test_missing_numbers_are_none(name):
    assert metrics.find(name, "search.objective").of(RECORD) is None
    assert metrics.find("timing.apply.median_s", "search.objective").of(make_record(timing=None)) is None


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("aply_latency_median_s", "apply_latency_median_s"),
        ("timing.aply.median_s", "timing.apply.median_s"),
        ("los_last", "loss_last"),
        ("output.0.nrm", "output.0.norm"),
        ("qqq", "loss_last"),
        ("train.losses", "train.losses.0"),
        ("train.losses[-1].x", "train.losses.0"),
        ("output.max", "output.0.max"),
        ("run_id", "loss_last"),
        ("settings.seed", "loss_last"),
    ],
)
def test_unknown_metrics_suggest_near_names(name, near):
    with pytest.raises(ConfigError) as refused:
        metrics.find(name, "search.objective")
    said = rf"search.objective={re.escape(name)}: no number of a record; there are {re.escape(near)}.* and others\.\n"
    assert re.fullmatch(rf"{said}  Try: search.objective={re.escape(near)}", str(refused.value))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "typed", "reason", "instead"),
    [
        ("loss_last", "train=none", "without training no run has it", "train=short"),
        ("train.losses.-1", "train=none", "without training no run has it", "train=short"),
        ("timing.apply.median_s", "timing=off", "with timing=off no run has it", "timing=quick"),
        ("apply_throughput_median_s", "timing=off", "with timing=off no run has it", "timing=quick"),
        ("checkpoint_bytes", "checkpoint=none", "with checkpoint=none no run has it", "checkpoint=orbax"),
        ("timing.checkpoint_s", "checkpoint=none", "with checkpoint=none no run has it", "checkpoint=orbax"),
    ],
)
def test_impossible_metrics_are_refused(name, typed, reason, instead, make_run):
    with pytest.raises(ConfigError, match=re.escape(f"search.objective={name}: {reason}.\n  Try: {instead}")):
        metrics.find(name, "search.objective").require(make_run(typed))
    metrics.find(name, "search.objective").require(make_run(instead))


@pytest.mark.parametrize("name", ["timing.apply.compile_s", "init_trace_s", "output_norm", "num_params"])
def test_universal_metrics_are_accepted(name, make_run):
    metrics.find(name, "search.objective").require(make_run("timing=off", "checkpoint=none"))


def test_several_outputs_are_numbered_by_position():
    record = dataclasses.replace(RECORD, output=[make_array("a", norm=1.0), make_array("b", norm=5.0)])
    assert metrics.find("output.1.norm", "search.objective").of(record) == 5.0
    assert metrics.find("output_mean", "search.objective").of(record) is None
