"""The Aim replica: a real repository, each run read back from its own store."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from tracked_records import logged, make_record

from runner.commands import main
from runner.records.record import CheckpointInfo, Failure, FailureKind, Status, TrainInfo
from runner.records.timing import Phases

FAILURE = Failure(kind=FailureKind.other, type="E", message="m" * 9000, traceback="")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep's folder; skips where Aim is not installed: it is an extra of its own, which `.ci/run` installs."""
    pytest.importorskip("aimrocks")
    return tmp_path / "demo"


@dataclasses.dataclass
class Found:
    """A run in the repository."""

    name: str
    experiment: str
    about: str
    tags: list[str]
    params: dict[str, Any]
    metrics: dict[str, dict[int, float]]
    ended: bool


def found(place: Path) -> dict[str, Found]:
    """The runs in the repository of a folder, by our id."""
    from aim.sdk.repo import Repo

    repo = Repo.from_path(str(place))
    runs = [_found(repo, path.name) for path in (place / ".aim" / "meta" / "chunks").iterdir()]
    assert len({run.params["bridge_runner"]["run_id"] for run in runs}) == len(runs)
    return {run.params["bridge_runner"]["run_id"]: run for run in runs}


def _found(repo: Any, key: str) -> Found:
    props = repo.request_props(key, read_only=True)
    meta = repo.request_tree("meta", key, read_only=True).subtree(("meta", "chunks", key)).collect()
    series = repo.request_tree("seqs", key, read_only=True).subtree(("seqs", "v2", "chunks", key))
    metrics = {}
    for context, names in meta["traces"].items():
        for name in names:
            one = series.subtree((context, name))
            metrics[name] = dict(zip(one.array("step").values(), one.array("val").values(), strict=True))
    about = {"name": props.name, "experiment": props.experiment, "about": props.description, "tags": props.tags}
    return Found(**about, params=meta["attrs"], metrics=metrics, ended=meta["end_time"] is not None)


@pytest.mark.slow
def test_aim_holds_what_was_logged(folder):
    phases = Phases(trace_s=0.1, lower_s=0.1, compile_s=0.1, cache="off")
    train = TrainInfo(first_step=5, losses=[2.0, math.inf, 1.0], step=phases, steps_s=[0.1] * 3, not_moved=[])
    checkpoint = CheckpointInfo(path="checkpoint", digest="d1", num_bytes=9, writer="orbax")
    settings = {"seed": 2**64, "layer": {"name": "linear", "kwargs": {"rates": [1, None]}}}
    assert (
        logged("aim", folder, make_record(train=train, checkpoint=checkpoint, settings=settings), tags=["mine"]) == []
    )
    runs = found(folder.parent)
    run = runs[make_record().run_id]
    assert (run.name, run.experiment, run.tags, run.ended) == (f"3-linear-s{2**64}", "demo", ["mine"], True)
    assert run.about.endswith("3-a1b2c3d4")
    assert (run.params["hparams"]["seed"], run.params["hparams"]["program"]) == (str(2**64), "layer=linear")
    assert run.params["hparams"]["layer"] == {"name": "linear", "kwargs": {"rates": [1, None]}}
    assert (run.params["summary"]["status"], run.params["summary"]["layer"]) == ("done", "linear")
    assert run.params["summary"]["checkpoint"] == str(folder / "runs" / "3-a1b2c3d4" / "checkpoint")
    assert (run.metrics["output/norm"], run.metrics["num_steps"]) == ({0: 2.0}, {0: 3.0})
    assert run.metrics["train/loss"] == {5: 2.0, 6: math.inf, 7: 1.0}
    assert runs["sweep"].metrics == {"num_runs": {0: 1.0}, "num_failed": {0: 0.0}}


@pytest.mark.slow
def test_logging_again_rewrites_the_run(folder):
    failed = make_record(status=Status.failed, error=FAILURE, timing=None, output=[])
    logged("aim", folder, make_record(), tags=["mine"])
    assert "output/norm" in found(folder.parent)[failed.run_id].metrics
    assert logged("aim", folder, failed, tags=["mine"]) == []
    runs = found(folder.parent)
    run = runs[failed.run_id]
    assert (len(runs), run.params["summary"]["status"], run.tags, run.ended) == (2, "failed", ["mine"], True)
    assert run.metrics.keys() == {"num_params", "variables_bytes", "wall_s"}


@pytest.mark.slow
def test_an_open_page_hinders_nothing(folder):
    from aimrocks import DB, Options

    logged("aim", folder, make_record())
    # The lock that `aim up` holds, and a run whose program was killed at its start.
    page = DB(str(folder.parent / ".aim" / "meta" / "index"), Options())
    (folder.parent / ".aim" / "meta" / "chunks" / "killed").mkdir()
    assert logged("aim", folder, make_record(), dataclasses.replace(make_record(), run_id="f" * 16)) == []
    (folder.parent / ".aim" / "meta" / "chunks" / "killed").rmdir()
    assert found(folder.parent).keys() == {make_record().run_id, "f" * 16, "sweep"}
    del page


@pytest.mark.slow
def test_broken_repositories_warn_once(folder):
    (folder.parent / ".aim").write_text("no repository")
    (warning,) = logged("aim", folder, make_record(), dataclasses.replace(make_record(), run_id="f" * 16))
    assert warning.startswith("Aim run sweep is missing or incomplete: ")


@pytest.mark.slow
def test_a_sweep_is_tracked_in_aim(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder.parent)
    words = ["-m", "sweep=real", "output_root=.", "seed=0,1", "timing=off", "checks=off", "tracking=aim"]
    words += ["tracking.project=mine", "tracking.options.repo=shown"]
    assert main.main(words) == 0
    out, err = capfd.readouterr()
    assert f"  look        aim up --repo {folder.parent / 'shown'}\n" in out
    runs = found(folder.parent / "shown")
    assert (err, len(runs), {run.experiment for run in runs.values()}) == ("", 3, {"mine"})


def test_aim_is_an_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "aim", None)
    assert main.main(["tracking=aim"]) == 2
    install = "pip install 'bridge-runner[aim]'"
    assert capsys.readouterr().err == f"error: aim is not installed.\n  Try: {install}\n"
    assert list(tmp_path.iterdir()) == []
