"""A record with nothing in it that could be left out."""

from __future__ import annotations

from runner.records.record import Record, Status

RECORD = Record(
    run_id="0123456789",
    result_id="x",
    timing_id="t",
    program_id="p",
    sweep="mine",
    num=0,
    status=Status.done,
    started_at="2026-01-01T00:00:00.000+00:00",
    wall_s=1.0,
    overrides=[],
    settings={},
    layer="linear",
    device="cpu:0",
    platform="cpu",
)
