"""A record as flat values: what W&B and TensorBoard show of it."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from tracked_records import make_array, make_record

from runner.tracking import payload


def test_summary_holds_numbers_with_flags():
    summary = payload.summary_of(make_record())
    assert summary["timing/apply_latency/median_s"] == 2e-6
    assert summary["timing/apply_latency/flags"] == "short, spread"
    assert "timing/apply_latency/median_low_s" not in summary
    assert (summary["init/trace_s"], summary["apply/compile_s"], summary["apply/cache"]) == (0.1, 0.3, "cold")
    assert (summary["output/norm"], summary["output/mean"], summary["output/std"]) == (2.0, 0.5, 1.0)
    assert (summary["num_params"], summary["variables_bytes"], summary["construct_s"]) == (32, 128, 0.01)
    assert (summary["check/finite"], summary["status"], summary["software_id"]) == ("pass", "done", "s1")


def test_summary_names_several_arrays():
    summary = payload.summary_of(make_record(output=[make_array("a", mean=1.0), make_array("b", mean=2.0)]))
    assert (summary["output/a/mean"], summary["output/b/mean"]) == (1.0, 2.0)
    assert summary["output/norm"] == pytest.approx(8**0.5)


@pytest.mark.parametrize(
    ("values", "num_counted"),
    [
        (np.full(5, 3.0), 5),
        (np.full(5, 1e20), 5),
        (np.array([-1.7e308, 1.7e308]), 2),
        (np.zeros((0, 4)), None),
        (np.array([math.nan]), None),
        (np.array([True, False]), 2),
        (np.array(7), 1),
        (np.array([2**63], np.uint64), 1),
        (np.array([3 + 4j, math.nan]), 1),
        (np.array([1, 2, 3], ml_dtypes.bfloat16), 3),
        (np.array([1, 2], ml_dtypes.float8_e4m3fn), 2),
    ],
)
def test_histograms_count_finite_values(values, num_counted):
    histogram = payload.histogram_of(values)
    assert (histogram and histogram[0].sum()) == num_counted
    assert histogram is None or len(histogram[1]) == len(histogram[0]) + 1


def test_deep_config_values_become_text():
    config = payload.config_of(make_record())
    assert config["layer"]["kwargs"] == {"deep": {"deeper": "{deepest:1}"}}
    assert (config["seed"], config["layer"]["name"]) == (7, "linear")


@pytest.mark.parametrize(
    ("overrides", "program"),
    [
        (["seed=7", "features=8", "input_shape=[4]", "sweep=demo", "tracking=online"], "features=8 input_shape=[4]"),
        (["+seed=7", "seeds_of=3", "tracking.notes=why"], "seeds_of=3"),
        (["seed=7"], "linear"),
    ],
)
def test_seeds_share_the_program_name(overrides, program):
    assert payload.config_of(make_record(overrides=overrides))["program"] == program


def test_charts_skip_non_finite_values():
    rows = [
        {"seed": seed, "features": 8, "output_norm": norm, "layer": "linear"}
        for seed, norm in enumerate([1.0, math.nan, None, 2.0])
    ]
    points = [[0, 1.0, "linear"], [3, 2.0, "linear"]]
    assert list(payload.sweep_charts(rows)) == [("seed", "output_norm", "output norm by seed", points)]


def test_numbers_get_an_axis_when_possible():
    wide = make_record(settings={"seed": 7, "features": 8})
    assert payload.axes_of(wide) == {"output/norm": "seed", "timing/apply_latency/median_s": "features"}
    assert payload.axes_of(make_record(settings={"features": None}, output=[])) == {}
