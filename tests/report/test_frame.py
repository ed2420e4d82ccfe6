"""`runner.load`: a data frame of a sweep's runs, aggregates over seeds, and outputs when they are asked for."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from failing_layers import LAYERS

import runner
from runner.arrays import trees
from runner.commands import main
from runner.errors import StorageError, UserError
from runner.records import find, store
from runner.report.frame import Results

QUIET = ("timing.rounds=2", "tracking=disabled", "checkpoint=none")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two sweeps: `many` has ten seeds of two programs, `mixed` a run that is done and one that failed."""
    path = tmp_path_factory.mktemp("loaded")
    (path / "loaded_layers.py").write_text(LAYERS)
    (path / "broken").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(str(path))
        assert main.main(["-m", "seed=range(0,10)", "features=4,8", "sweep=many", *QUIET]) == 0
        layer = ["layer=custom", "layer.target=loaded_layers.Fails", "layer.kwargs.when=broken,whole"]
        assert main.main(["-m", *layer, "sweep=mixed", *QUIET]) == 1
    return path / "outputs"


@pytest.fixture
def many(root) -> Results:
    return runner.load(root / "many")


def test_frame_equals_the_parquet_file(root, many):
    pd.testing.assert_frame_equal(many.frame, pd.read_parquet(root / "many" / "results.parquet"))


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: shutil.copy(path.parents[1] / "mixed" / path.name, path)]
)
def test_frame_falls_back_to_records(damage, root, many, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    damage(tmp_path / "copy" / "many" / "results.parquet")
    pd.testing.assert_frame_equal(runner.load(tmp_path / "copy" / "many").frame, many.frame)


def test_by_aggregates_over_seeds(many):
    from scipy import stats  # takes a second

    found = many.by("features")
    norms = many.frame.loc[many.frame["features"] == 4, "output_norm"]
    interval = stats.quantile_test(norms, p=0.5).confidence_interval(confidence_level=0.99)
    assert list(found.index) == [4, 8]
    assert found.loc[4, "output_norm"].tolist() == [norms.median(), interval.low, interval.high, 10]


def test_by_counts_flagged_runs(many):
    flagged = many.frame[many.frame["features"] == 8]["apply_latency_flags"] != ""
    assert many.by("features").loc[8, ("apply_latency_median_s", "flagged")] == flagged.sum() > 0


def test_by_groups_over_any_key(many):
    found = many.by("layer.kwargs.out_features", "input_shape", of=["init_latency_median_s"])
    assert found.index.names == ["layer.kwargs.out_features", "input_shape"]
    assert found["init_latency_median_s"]["n"].to_dict() == {(4, "[4]"): 10, (8, "[4]"): 10}


def test_few_seeds_have_no_interval(root):
    found = runner.load(root / "mixed").by("layer.kwargs.when")["output_norm"]
    assert found["n"].to_dict() == {"broken": 0, "whole": 1}
    assert found[["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("run", [3, "3", "{label}", "{run_id}"])
def test_outputs_are_loaded_on_demand(run, root, many):
    (folder,) = (root / "many" / "runs").glob("3-*")
    run_id = many.frame["run_id"][3]
    asked = run.format(label=folder.name, run_id=run_id) if isinstance(run, str) else run
    assert np.array_equal(many.output(asked), np.load(folder / "output.npy"))
    assert many.record(asked).run_id == run_id


def test_several_outputs_come_by_path(root, many, tmp_path):
    folder = find.find_run(shutil.copytree(root / "many", tmp_path / "many") / "0")
    record = store.read_record(folder)
    arrays = {name: np.full(2, number, np.float32) for number, name in enumerate(["carry", "y"])}
    store.write_output(folder, arrays)
    summaries = [trees.summarize_array(path, array) for path, array in arrays.items()]
    store.write_record(folder, dataclasses.replace(record, output=summaries))
    output = runner.load(tmp_path / "many").output(0)
    assert {path: array.tolist() for path, array in output.items()} == {"carry": [0, 0], "y": [1, 1]}


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda results: results.by("feature"), "feature: the runs have no such key.\n  Try: features"),
        (lambda results: results.by("seed", of=["apply"]), "apply: the runs have no such key"),
        (lambda results: results.output(20), "run 20: 0 such runs are there, one is wanted; the first are 0-"),
        (lambda results: results.output(""), "run '': 20 such runs are there, one is wanted; the first are 0-"),
    ],
)
def test_what_is_not_there_is_said(ask, said, many):
    with pytest.raises(UserError) as caught:
        ask(many)
    assert str(caught.value).startswith(said)


def test_a_failed_run_has_no_output(root):
    with pytest.raises(UserError, match=r"run 0-\w{8} has no output: it failed"):
        runner.load(root / "mixed").output(0)


def test_folders_without_a_sweep_are_refused(root):
    with pytest.raises(StorageError, match="man is no sweep: it has no sweep.json"):
        runner.load(root / "man")


def test_sweeps_without_results_are_refused(root, tmp_path):
    (tmp_path / "none").mkdir()
    shutil.copy(root / "many" / "sweep.json", tmp_path / "none")
    with pytest.raises(UserError, match="none: no run of this sweep is done"):
        runner.load(tmp_path / "none")


def test_missing_pandas_is_reported(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError) as caught:
        runner.load(root / "many")
    assert str(caught.value) == "the package pandas is not installed.\n  Try: pip install 'bridge-runner[pandas]'"


def test_many_seeds_suggest_ls_by(root, capsys):
    words = ["seed=range(0,10)", "features=4,8", f"output_root={root}", "sweep=many", *QUIET]
    assert main.main(["-m", *words]) == 0
    assert f"\n  over seeds  bridge-runner ls {root}/many --by features\n" in capsys.readouterr().out


def test_results_repr_is_short(root, many):
    path = str(root / "many")
    calls = ".frame, .by(key), .plot(key), .plot_losses(), .output(run), .record(run)"
    assert repr(many) == f"Results({path!r}: 20 runs, 20 done; {calls})"
    table = many._repr_html_()
    assert table.startswith("<p>Results(") and table.count("<tr") == 21
    assert all(f"<th>{name}</th>" in table for name in ("num", "seed", "features", "output_norm", "status"))
    assert "<th>layer</th>" not in table
    failed = dataclasses.replace(many, frame=many.frame.assign(status="<b>", device=many.frame["seed"].astype(str)))
    assert "&lt;b&gt;" in failed._repr_html_() and "<b>" not in failed._repr_html_()
    mixed = runner.load(root / "mixed")
    assert repr(mixed).count("2 runs, ") == 1
    heads = [re.findall(r"<th>(.*?)</th>", shown._repr_html_()) for shown in (many, mixed)]
    assert heads[0][:4] == [
        "num",
        "seed",
        "features",
        "output_norm",
    ]  # and not layer.kwargs.out_features, which follows
    assert heads[1][:3] == ["num", "layer.kwargs.when", "output_norm"]


def test_a_notebook_shows_losses_of_trained_runs(many):
    trained = dataclasses.replace(many, frame=many.frame.assign(loss_last=0.123456789))
    assert trained._repr_html_().count("<td>0.1235</td>") == 20
    assert "loss_last" not in many._repr_html_()


@pytest.mark.slow
def test_a_plot_has_every_run_and_medians(many):
    axes = many.plot("features", of="output_norm")
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [sorted(line.get_ydata()) for line in dots] == [
        sorted(many.frame.loc[many.frame["features"] == features, "output_norm"]) for features in (4, 8)
    ]
    medians = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "_"]
    assert medians == many.by("features")["output_norm"]["median"].tolist()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("features", "output norm")
    assert many.plot("features", ax=axes) is axes
    assert axes.get_ylabel() == "apply latency median (s)"


@pytest.mark.slow
def test_loss_curves_are_named_by_what_varies(root, many, monkeypatch):
    with pytest.raises(UserError, match="no run of this sweep was trained") as raised:
        many.plot_losses()
    monkeypatch.chdir(root.parent)
    trained = runner.sweep(seed=[0, 1], train="short", overrides={"train.steps": 3, **dict(map(_pair, QUIET))})
    axes = trained.plot_losses()
    assert [line.get_label() for line in axes.lines] == ["seed=0", "seed=1"]
    assert [list(line.get_ydata()) for line in axes.lines] == [trained.record(num).train.losses for num in (0, 1)]
    assert raised.value.suggestion == "bridge-runner -m train=short seed=0,1"


def test_a_plot_of_nothing_is_refused(root):
    with pytest.raises(UserError, match="train_compile_s: no run of this sweep has a value"):
        runner.load(root / "mixed").plot("seed", of="train_compile_s")


def test_a_plot_wants_matplotlib(many, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="the package matplotlib is not installed"):
        many.plot("features")


def _pair(word: str) -> tuple[str, str]:
    key, value = word.split("=")
    return key, value
