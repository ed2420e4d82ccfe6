"""`runner.sweep`: what the command line does, from Python, and nothing left behind in the process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
from failing_layers import LAYERS
from hydra.core.global_hydra import GlobalHydra

import runner
from runner.errors import ManyErrors, UserError
from runner.launch.axes import to_overrides
from runner.records import store
from runner.records.paths import SweepFolder

QUIET = {"tracking": "disabled", "checkpoint": "none", "timing": "off"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def process() -> list[object]:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    hydras = [GlobalHydra.instance().hydra, hydra.core.hydra_config.HydraConfig.instance().cfg]
    library = [sys.unraisablehook, logging.getLogger("absl").level]
    return [list(sys.argv), list(sys.path), dict(os.environ), os.getcwd(), *handlers, *hydras, *library]


@pytest.mark.slow
def test_keywords_become_sweep_axes(capsys):
    before = process()
    found = runner.sweep(layer="linear", seed=range(2), input_shape=[[4], [16]], features=[8], **QUIET)
    assert process() == before
    assert found.frame["status"].tolist() == ["done"] * 4
    axes = sorted(zip(found.frame["seed"], found.frame["input_shape"], strict=True))
    assert axes == [(0, "[16]"), (0, "[4]"), (1, "[16]"), (1, "[4]")]
    assert found.output(0).shape == (8,)
    assert "4 of 4 runs done" in capsys.readouterr().out


@pytest.mark.slow
def test_plan_holds_the_equivalent_command():
    found = runner.sweep(seed=range(2), sweep="named", overrides={"layer.kwargs.use_bias": [True, False]}, **QUIET)
    assert found.path == Path("outputs/named")
    words = ["-m", "seed=range(0,2)", "sweep=named", "tracking=disabled", "checkpoint=none", "timing=off"]
    command = [*words, "layer.kwargs.use_bias=true,false"]
    assert store.read_plan(SweepFolder(found.path))["origin"]["command"] == command
    assert len(found.frame) == 4


@pytest.mark.slow
def test_repeated_calls_rerun_nothing():
    first, second = (runner.sweep(**QUIET) for _ in range(2))
    assert first.path == second.path
    assert first.frame["started_at"].tolist() == second.frame["started_at"].tolist()


@pytest.mark.slow
def test_failed_runs_do_not_raise(folder):
    (folder / "api_layers.py").write_text(LAYERS)
    (folder / "broken").touch()
    target = {"layer.target": "api_layers.Fails", "layer.kwargs.when": ["broken", "whole"]}
    found = runner.sweep(layer="custom", overrides=target, **QUIET)
    assert sorted(found.frame["status"]) == ["done", "failed"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": -1}, "seed=-1: a seed is a whole number from 0 to 4294967295.\n  Try: seed=0"),
        ({"feature": 3}, "feature=3: no such key.\n  Try: features=3"),
        ({"features": []}, "features=[]: an axis needs at least one value.\n  Try: features=[0]"),
        (
            {"features": 8, "overrides": {"features": 16}},
            "features is given twice, as a keyword and in overrides.\n  Try: overrides={'features': …} alone",
        ),
        (
            {"overrides": {"layer kwargs": 1}},
            "'layer kwargs' is not a config key.\n"
            "  Try: sweep(features=[8, 16], overrides={'layer.kwargs.hidden': 32})",
        ),
        (
            {"overrides": {"layer.kwargs.activation": len}},
            "layer.kwargs.activation: a config holds numbers, text, lists and dicts, and this is a "
            "builtin_function_or_method.\n  Try: layer.kwargs.activation='name', or a dotted path as text",
        ),
        (
            {"hydra/sweeper": "basic"},
            "hydra/sweeper=basic leaves several sweeps, and runner.sweep gives one.\n  Try: no hydra/sweeper",
        ),
    ],
)
def test_errors_match_the_command_line(given, said, folder):
    before = process()
    with pytest.raises(UserError) as caught:
        runner.sweep(**given)
    assert str(caught.value) == said
    assert process() == before
    assert not (folder / "outputs").exists()


def test_all_mistakes_are_raised_together():
    with pytest.raises(ManyErrors, match=r"^2 of 3 configs of this sweep are invalid; nothing was run\.\nfeatures=0"):
        runner.sweep(features=[0, 8, -1])


@pytest.mark.slow
def test_tracking_never_reruns_the_script(folder):
    (folder / "script.py").write_text(
        "import pathlib, sys, runner\n"
        "with pathlib.Path('ran').open('a') as file:\n"
        "    file.write('once ')\n"
        "quiet = {'timing': 'off', 'checkpoint': 'none', 'tracking': 'offline'}\n"
        "runner.sweep(seed=range(6), input_shape=[[4], [16]], **quiet)\n"
        "assert pathlib.Path(__file__).name == 'script.py' and 'script' in str(sys.modules['__main__'].__file__)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "ran").read_text() == "once "
    assert len(list(folder.glob("outputs/*/wandb/offline-run-*"))) == 13


@pytest.mark.slow
def test_hydra_programs_may_call_sweep():
    with hydra.initialize(version_base=None, config_path=None):
        before = GlobalHydra.instance().hydra
        assert len(runner.sweep(**QUIET).frame) == 1
        assert GlobalHydra.instance().hydra is before


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("features", [8, 16], "features=8,16"),
        ("seed", range(1, 9, 3), "seed=range(1,9,3)"),
        ("seed", range(4, 5), "seed=4"),
        ("seed", np.arange(2), "seed=0,1"),
        ("seed", np.int32(3), "seed=3"),
        ("input_shape", [4, 8], "input_shape=[4,8]"),
        ("input_shape", (4, 8), "input_shape=[4,8]"),
        ("input_shape", [(4,), [4, 8]], "input_shape=[4],[4,8]"),
        ("grid.zip", [["seed", "features"]], "grid.zip=[[seed,features]]"),
        ("grid.exclude", ["features>16 and seed==0"], "grid.exclude=['features>16 and seed==0']"),
        ("layer.kwargs.kernel_size", (3,), "layer.kwargs.kernel_size=[3]"),
        ("layer.kwargs.kernel_init", "normal(stddev=0.02)", "layer.kwargs.kernel_init='normal(stddev=0.02)'"),
        ("layer.kwargs.name", ["null", "it's"], "layer.kwargs.name='null','it\\'s'"),
        ("layer.kwargs.rate", [0.5, 1e-5, None, True], "layer.kwargs.rate=0.5,1e-05,null,true"),
        ("mesh.axes", {"data": 2}, "mesh.axes={data:2}"),
        ("variables", Path("outputs/some"), "variables=outputs/some"),
        ("+experiment", "width", "+experiment=width"),
        ("hydra/launcher", "joblib", "hydra/launcher=joblib"),
    ],
)
def test_values_are_written_in_hydra_syntax(key, value, word):
    assert to_overrides({key: value}) == [word]
