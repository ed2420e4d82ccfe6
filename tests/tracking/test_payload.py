"""A record as flat values: what W&B and TensorBoard show of it."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from tracked_records import make_array, make_record

from runner.config import serialize
from runner.config.settings.run import Run
from runner.records.record import Check, TrainInfo, Verdict
from runner.records.timing import Phases
from runner.tracking import payload

TEXTS = ("overrides", "program")


def test_summary_has_few_names_first():
    summary = payload.summary_of(make_record())
    assert list(summary)[:2] == ["status", "checks"] and len(summary) < 20
    assert (summary["status"], summary["checks"], summary["wall_s"]) == ("done", "1 pass", 1.5)
    assert (summary["apply_ms"], summary["apply_flags"]) == (2e-3, "short, spread")
    assert summary["compile_s"] == pytest.approx(1.2)
    assert "init_ms" not in summary and "output/num_non_finite" not in summary
    assert (summary["output/norm"], summary["output/mean"], summary["output/std"]) == (2.0, 0.5, 1.0)
    assert (summary["num_params"], summary["variables_bytes"]) == (32, 128)


def test_checks_that_did_not_pass_are_named():
    verdicts = {"pure": "fail", "lifts": "warn", "finite": "pass", "used": "pass", "eager": "skipped"}
    checks = [Check(name=name, verdict=Verdict(one), detail="") for name, one in verdicts.items()]
    shown = "1 fail (pure), 1 warn (lifts), 2 pass, 1 skipped"
    assert payload.summary_of(make_record(checks=checks))["checks"] == shown
    assert payload.sentence_of(make_record(checks=checks, host="mlp")).startswith("linear in mlp, seed 7 on cpu: done")
    assert "checks" not in payload.summary_of(make_record(checks=[]))


def test_training_shows_its_losses():
    phases = Phases(trace_s=0.1, lower_s=0.1, compile_s=0.1, cache="off")
    train = TrainInfo(first_step=5, losses=[2.0, 0.12345], step=phases, steps_s=[0.1, 0.1], not_moved=[])
    summary = payload.summary_of(make_record(train=train))
    assert (summary["loss_first"], summary["loss_last"], summary["num_steps"]) == (2.0, 0.12345, 2)
    assert "loss 2 to 0.1235 in 2 steps" in payload.sentence_of(make_record(train=train))


def test_config_holds_what_differs_from_the_defaults():
    settings = serialize.to_data(Run()) | {"seed": 0}
    settings["timing"] |= {"rounds": settings["timing"]["rounds"] + 1}
    plain = make_record(settings=settings, overrides=[])
    assert payload.config_of(plain).keys() == {"seed", "input_shape", "features", "device", "layer", "timing", *TEXTS}
    assert payload.config_of(plain)["timing"] == {"rounds": settings["timing"]["rounds"]}
    typed = make_record(settings=settings, overrides=["+train.steps=0", "tracking.notes=why"])
    assert payload.config_of(typed)["train"] == {"steps": 0}
    trained = make_record(settings=settings | {"train": settings["train"] | {"steps": 3}})
    assert payload.config_of(trained)["train"].keys() == settings["train"].keys()


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
    assert payload.axes_of(wide) == {"output/norm": "seed", "apply_ms": "features"}
    assert payload.axes_of(make_record(settings={"features": None}, output=[])) == {}
