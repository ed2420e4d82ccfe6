"""A record with something in nearly every field, and texts and numbers that are easily lost."""

from __future__ import annotations

import dataclasses

from runner.records.record import (
    ArraySummary,
    Check,
    CheckpointInfo,
    Failure,
    FailureKind,
    Leaf,
    Record,
    Status,
    Verdict,
)
from runner.records.timing import Measurement, Phases, Samples, Summary, Timing

PHASES = Phases(trace_s=0.1, lower_s=0.2, compile_s=0.3, cache="cold", first_call_s=1e-9)
SUMMARY = Summary(
    num_samples=2,
    median_s=0.1,
    min_s=0.1,
    max_s=0.2,
    mean_s=0.15,
    std_s=0.05,
    quartile1_s=0.1,
    quartile3_s=0.2,
    mad_s=0.05,
    median_low_s=None,
    median_high_s=None,
    num_outliers=0,
    flags=["short"],
)
KERNEL = Leaf(path=["params", 0, "0"], shape=[2, 3], dtype="float32", num_bytes=24, digest="d", names=["a", None])
OUTPUT = ArraySummary(
    path="",
    shape=[2],
    dtype="bfloat16",
    digest="d",
    num_elements=2,
    num_non_finite=0,
    norm=5.0,
    mean=0.0,
    std=0.5,
    min=0.0,
    max=4.0,
)
RECORD = Record(
    run_id="r",
    result_id="x",
    timing_id="t",
    program_id="p",
    sweep="s",
    num=3,
    status=Status.failed,
    started_at="2026-01-01T00:00:00.000+00:00",
    wall_s=0.1 + 0.2,
    overrides=["seed=1", "layer=β"],
    settings={"layer": {"kwargs": {"kernel_size": [3, 3], "scale": 1e-300, "none": None, "big": 2**70}}},
    layer="β",
    device="cpu:0",
    platform="cpu",
    streams=["params", "dropout"],
    mutable=["batch_stats"],
    variables=[KERNEL, dataclasses.replace(KERNEL, path=["batch_stats", "mean"], shape=[3], num_bytes=12)],
    output=[OUTPUT],
    checks=[Check(name="finite", verdict=Verdict.fail, detail="why", evidence={"non_finite": {"output": 1}})],
    timing=Timing(
        construct_s=0.01,
        init=PHASES,
        apply=PHASES,
        compiled_here=False,
        apply_latency=Measurement(samples=Samples(durations_s=[0.1, 0.2], num_calls=2), summary=SUMMARY),
    ),
    checkpoint=CheckpointInfo(path="checkpoint", digest="d", num_bytes=100, writer="orbax"),
    fingerprint={"cores": 2, "versions": {"jax": "0"}},
    error=Failure(kind=FailureKind.non_finite, type="CheckFailed", message="“NaN”", traceback="a\nb"),
)
