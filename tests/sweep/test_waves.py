"""How a sweep is cut into waves and bursts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from runner.config.composing.composed import Config
from runner.records.paths import SweepFolder
from runner.sweep import waves
from runner.sweep.plan import make_plan


@dataclass(frozen=True)
class Sized:
    """As much of a compiled program as a burst asks for."""

    result_bytes: int


@pytest.fixture
def plan(make_run, tmp_path):
    runs = [
        make_run("tracking=disabled", "timing=off", f"features={features}", f"seed={seed}")
        for features in (3, 4, 5)
        for seed in (0, 1)
    ]
    return make_plan([Config(run=run) for run in runs], lambda name: SweepFolder(tmp_path / "sweep"))


def nums(groups):
    return [[task.job.num for task in group] for group in groups]


def test_waves_hold_a_number_of_programs(plan):
    assert nums(waves.waves(plan.pending(), 2)) == [[0, 1, 2, 3], [4, 5]]
    assert nums(waves.waves([], 2)) == []


def test_bursts_are_limited_by_bytes(plan):
    assert waves.BURST_BYTES == 256 * 2**20
    half, too_much = waves.BURST_BYTES // 2, waves.BURST_BYTES + 1
    keys = list(plan.drafts)
    programs = dict(zip(keys, (Sized(half), Sized(too_much), ValueError("can't be compiled")), strict=True))
    assert nums(waves.bursts(plan.pending(), programs)) == [[0, 1], [2], [3], [4, 5]]


def test_a_burst_holds_so_many_runs(plan):
    many = [plan.tasks[0]] * (waves.BURST_RUNS + 1)
    sizes = [len(burst) for burst in waves.bursts(many, {plan.tasks[0].program_key: Sized(1)})]
    assert sizes == [waves.BURST_RUNS, 1]
