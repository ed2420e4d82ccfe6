"""The MLflow replica: a real SQLite store, read back with MLflow's own client."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tracked_records import logged, make_record

from runner.commands import main
from runner.records import codec
from runner.records.record import CheckpointInfo, Failure, FailureKind, Status, TrainInfo
from runner.records.timing import Phases

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs: making one takes MLflow seconds."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def folder(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep's folder, next to a database."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty, tmp_path / "mlflow.db")
    return tmp_path / "demo"


def found(folder: Path, experiment: str = "demo") -> dict[str, Any]:
    """The runs in the database, by our id."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {run.data.tags["bridge_runner.run_id"]: run for run in runs}


def artifacts(folder: Path) -> dict[str, Path]:
    """Files of all runs, by path inside their run."""
    root = folder.parent / "mlflow-artifacts"
    return {"/".join(path.relative_to(root).parts[2:]): path for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_mlflow_reads_back_what_was_logged(folder):
    phases = Phases(trace_s=0.1, lower_s=0.1, compile_s=0.1, cache="off")
    train = TrainInfo(first_step=5, losses=[2.0, 1.0], step=phases, steps_s=[0.1, 0.1], not_moved=[])
    assert logged("mlflow", folder, make_record(train=train), tags=["mine"]) == []
    runs = found(folder)
    run = runs[make_record().run_id]
    assert (run.info.run_name, run.info.status) == ("3-linear-s7", "FINISHED")
    assert run.info.end_time - run.info.start_time == 1500
    assert (run.data.params["seed"], run.data.params["layer.name"]) == ("7", "linear")
    assert (run.data.metrics["output/norm"], run.data.metrics["train/loss"]) == (2.0, 1.0)
    assert (run.data.tags["layer"], run.data.tags["mine"], run.data.tags["status"]) == ("linear", "true", "done")
    assert run.data.tags["mlflow.note.content"].endswith("3-a1b2c3d4")
    whole = json.loads(artifacts(folder)["runs.json"].read_text())
    assert whole == {"columns": ["num", "status", "norm"], "data": [[3, "done", "NaN"]]}
    assert runs["sweep"].data.metrics == {"num_runs": 1, "num_failed": 0}


@pytest.mark.slow
def test_logging_again_replaces_the_run_there(folder):
    failure = Failure(kind=FailureKind.other, type="E", message="m" * 9000, traceback="")
    failed = make_record(status=Status.failed, error=failure, timing=None, output=[])
    logged("mlflow", folder, failed)
    assert found(folder)[failed.run_id].info.status == "FAILED"
    assert logged("mlflow", folder, make_record()) == []
    assert {key: run.info.status for key, run in found(folder).items()} == {
        make_record().run_id: "FINISHED",
        "sweep": "FINISHED",
    }


@pytest.mark.slow
def test_artifacts_are_the_run_folder(folder):
    path = folder / "runs" / "3-a1b2c3d4" / "checkpoint" / "leaf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"012345678")
    info = CheckpointInfo(path="checkpoint", digest="d1", num_bytes=9, writer="orbax")
    record = make_record(checkpoint=info, files={"checkpoint/leaf": "sha256:0"})
    logged("mlflow", folder, record)
    assert artifacts(folder).keys() == {"runs.json"}
    logged("mlflow", folder, record, artifacts=True, artifact_max_bytes=8)
    assert artifacts(folder).keys() == {"runs.json"}
    assert logged("mlflow", folder, record, artifacts=True) == []
    files = artifacts(folder)
    assert files["run/checkpoint/leaf"].read_bytes() == b"012345678"
    assert codec.from_json(files["run/record.json"].read_bytes()) == record


@pytest.mark.slow
def test_broken_stores_warn_once(folder):
    (folder.parent / "mlflow.db").write_text("no database")
    (warning,) = logged("mlflow", folder, make_record(), dataclasses.replace(make_record(), run_id="f" * 16))
    assert warning.startswith("MLflow run sweep is missing or incomplete: ")


@pytest.mark.slow
def test_a_sweep_is_tracked_in_mlflow(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder.parent)
    words = ["-m", "sweep=real", "output_root=.", "seed=0,1", "timing=off", "checks=off", "tracking=mlflow"]
    assert main.main([*words, "tracking.project=mine"]) == 0
    out, err = capfd.readouterr()
    assert f"  look        mlflow ui --backend-store-uri sqlite:///{folder.parent / 'mlflow.db'}\n" in out
    assert (err, len(found(folder, "mine"))) == ("", 3)


def test_mlflow_is_an_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main.main(["tracking=mlflow"]) == 2
    install = "pip install 'bridge-runner[mlflow]'"
    assert capsys.readouterr().err == f"error: mlflow is not installed.\n  Try: {install}\n"
    assert list(tmp_path.iterdir()) == []
