"""The TensorBoard replica, read back with TensorBoard's own reader."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tracked_records import make_record

from runner.commands import main
from runner.config.enums import TrackingMode
from runner.config.settings.execution import TrackingSettings
from runner.records.record import Record, TrainInfo
from runner.records.timing import Phases
from runner.tracking.pool import InlineTracking, make_tracking
from runner.tracking.processes import Processes
from runner.tracking.registry import make_tracker

SETTINGS = TrackingSettings(mode=TrackingMode.tensorboard)


def logged(folder: Path, record: Record, output: np.ndarray) -> EventAccumulator:
    """What TensorBoard reads of a record that was tracked."""
    warnings: list[str] = []
    tracker = make_tracker(SETTINGS, folder, "demo", warnings.append)
    assert 0 < tracker.log(record, {"": output}, folder / "runs" / "3-a1b2c3d4") < 60
    tracker.log_sweep("demo", [])
    tracker.close()
    assert warnings == []
    return EventAccumulator(str(folder / "tensorboard" / "3-a1b2c3d4")).Reload()


def test_scalars_histograms_and_settings_round_trip(tmp_path):
    run = logged(tmp_path, make_record(), np.array([0.0, 1.0, 1.0]))
    assert run.Scalars("output/norm")[0].value == 2.0
    assert run.Scalars("apply_ms")[0].value == pytest.approx(2e-3)
    histogram = run.Histograms("output/histogram")[0].histogram_value
    assert (histogram.num, histogram.sum, histogram.min, histogram.max) == (3, 2, 0, 1)
    text = run.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "    layer.kwargs.deep.deeper={deepest:1}\n" in text


def test_every_step_has_a_loss_value(tmp_path):
    phases = Phases(trace_s=0.1, lower_s=0.1, compile_s=0.1, cache="off")
    train = TrainInfo(first_step=5, losses=[2.0, float("nan")], step=phases, steps_s=[0.1, 0.1], not_moved=[])
    run = logged(tmp_path, make_record(train=train), np.ones(1))
    (first, second) = run.Scalars("train/loss")
    assert (first.step, first.value, second.step) == (5, 2.0, 6)
    assert np.isnan(second.value)


def test_hparams_hold_the_settings(tmp_path):
    run = logged(tmp_path, make_record(), np.ones(1))
    content = run.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert (hparams["seed"].number_value, hparams["layer.name"].string_value) == (7, "linear")


def test_logging_again_replaces_the_run(tmp_path):
    logged(tmp_path, make_record(), np.ones(1))
    run = logged(tmp_path, dataclasses.replace(make_record(), wall_s=9.0), np.ones(1))
    assert [event.value for event in run.Scalars("wall_s")] == [9.0]


def test_write_failures_warn_without_raising(tmp_path):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    warnings: list[str] = []
    tracker = make_tracker(SETTINGS, tmp_path, "demo", warnings.append)
    assert tracker.log(make_record(), {}, tmp_path / "3-a1b2c3d4") is None
    assert warnings[0].startswith("TensorBoard run 3-a1b2c3d4 is missing or incomplete: ")


def test_without_its_package_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert main.main(["tracking=tensorboard"]) == 2
    install = "pip install 'bridge-runner[tensorboard]'"
    assert capsys.readouterr().err == f"error: tensorboardX is not installed.\n  Try: {install}\n"
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_runs_need_no_extra_processes(tmp_path):
    processes = Processes(2)
    tracking = make_tracking(SETTINGS, tmp_path, "demo", print, num_runs=100, processes=processes)
    assert isinstance(tracking, InlineTracking)
    assert not processes.needed
