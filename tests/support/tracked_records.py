"""A record as a run leaves it, for the tests of what is tracked."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from runner.config.settings.execution import TrackingSettings
from runner.records.record import ArraySummary, Check, Leaf, Record, Status, Verdict
from runner.records.timing import Measurement, Phases, Samples, Summary, Timing
from runner.tracking.registry import make_tracker

SUMMARY = Summary(
    num_samples=3,
    median_s=2e-6,
    min_s=1e-6,
    max_s=4e-6,
    mean_s=2e-6,
    std_s=1e-6,
    quartile1_s=1e-6,
    quartile3_s=3e-6,
    mad_s=1e-6,
    median_low_s=None,
    median_high_s=None,
    num_outliers=0,
    flags=["short", "spread"],
)


def make_record(**changes: Any) -> Record:
    phases = Phases(trace_s=0.1, lower_s=0.2, compile_s=0.3, cache="cold")
    samples = Samples(durations_s=[1e-6, 2e-6, 4e-6])
    timing = Timing(
        construct_s=0.01,
        init=phases,
        apply=phases,
        compiled_here=True,
        apply_latency=Measurement(samples=samples, summary=SUMMARY),
    )
    record = Record(
        run_id="a1b2c3d4e5f60718",
        result_id="r1",
        timing_id="t1",
        program_id="p1",
        sweep="demo",
        num=3,
        status=Status.done,
        started_at="2026-01-01T00:00:00Z",
        wall_s=1.5,
        overrides=["seed=7", "layer=linear"],
        settings={"seed": 7, "layer": {"name": "linear", "kwargs": {"deep": {"deeper": {"deepest": 1}}}}},
        layer="linear",
        device="cpu:0",
        platform="cpu",
        variables=[Leaf(path=["params", "kernel"], shape=[4, 8], dtype="float32", num_bytes=128, digest="d")],
        output=[make_array()],
        checks=[Check(name="finite", verdict=Verdict.passed, detail="all are")],
        timing=timing,
        fingerprint={"software_id": "s1", "machine_id": "m1"},
    )
    return dataclasses.replace(record, **changes)


def make_array(path: str = "", norm: float | None = 2.0, mean: float | None = 0.5) -> ArraySummary:
    sizes = {"shape": [2], "num_elements": 2, "num_non_finite": 0}
    return ArraySummary(path=path, dtype="float32", digest="d", norm=norm, mean=mean, std=1.0, min=0, max=1, **sizes)


def logged(name: str, folder: Path, *records: Any, **settings: Any) -> list[str]:
    """Tracks records and their sweep with the tracker `name`; returns the warnings."""
    warnings: list[str] = []
    tracker = make_tracker(TrackingSettings(name=name, **settings), folder, "demo", warnings.append)
    tracker.warm()
    for record in records:
        cost_s = tracker.log(record, {"": np.ones(2)}, folder / "runs" / "3-a1b2c3d4")
        assert cost_s is None if warnings else 0 < cost_s < 60
    tracker.log_sweep("demo", [{"num": 3, "status": "done", "norm": math.nan}])
    tracker.close()
    return warnings
