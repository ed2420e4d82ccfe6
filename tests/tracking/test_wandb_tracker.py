"""The W&B replica, with the real wandb: what is written is read back from its files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import psutil
import pytest
from tracked_records import make_array, make_record
from wandb_reader import read_offline_run

from runner.config.enums import TrackingMode
from runner.config.settings.execution import TrackingSettings
from runner.records import codec
from runner.records.record import CheckpointInfo, Failure, FailureKind, Record, Status, TrainInfo
from runner.records.timing import Phases
from runner.tracking import payload, registry
from runner.tracking.pool import PooledTracking
from runner.tracking.processes import Processes
from runner.tracking.tracker import NullTracker, Tracker

PHASES = Phases(trace_s=0.1, lower_s=0.1, compile_s=0.1, cache="off")
TRAIN = TrainInfo(first_step=5, losses=[2.0, math.nan, 1.0], step=PHASES, steps_s=[0.1] * 3, not_moved=[])


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, warnings: list[str]) -> Iterator[Callable[..., Tracker]]:
    made = []

    def make_one(**settings: Any) -> Tracker:
        made.append(registry.make_tracker(TrackingSettings(**settings), tmp_path, "demo", warnings.append))
        return made[-1]

    yield make_one
    for tracker in made:
        tracker.close()


def offline_runs(folder: Path) -> list[dict[str, Any]]:
    # The service writes a moment behind `finish`: the last thing that it writes is the exit code.
    deadline = time.monotonic() + 20
    while True:
        runs = [read_offline_run(path) for path in sorted((folder / "wandb").glob("offline-run-*"))]
        if all(run["exit_code"] is not None for run in runs) or time.monotonic() > deadline:
            return runs
        time.sleep(0.05)


def table(folder: Path, key: str) -> dict[str, Any]:
    (path,) = (folder / "wandb").glob(f"offline-run-*/files/media/table/{key}_*.table.json")
    return json.loads(path.read_text())


def test_offline_run_holds_what_was_logged(make, tmp_path, warnings):
    tracker = make(tags=["mine"], notes="why")
    assert 0 < tracker.log(make_record(), {"": np.array([0.0, 1.0], np.float32)}, tmp_path) < 60
    (run,) = offline_runs(tmp_path)
    assert (run["run_id"], run["name"], run["group"]) == ("demo-a1b2c3d4e5f6", "3-linear-s7", "demo")
    assert (run["job_type"], run["project"], run["notes"], run["exit_code"]) == ("linear", "bridge-runner", "why", 0)
    assert sorted(run["tags"]) == ["cpu", "done", "linear", "mine"]
    assert run["config"] == payload.config_of(make_record())
    assert payload.summary_of(make_record()).items() <= run["summary"].items()
    (row,) = run["history"]
    assert (row["seed"], row["output/norm"], row["apply_ms"]) == (7, 2.0, 2e-3)
    assert sum(row["apply_ms/histogram/values"]) == 3
    assert sum(run["summary"]["output/histogram/values"]) == 2
    assert (run["artifacts"], list(tmp_path.glob("wandb/offline-run-*/files/media"))) == ([], [])
    assert warnings == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"output": [make_array(norm=math.inf, mean=math.nan)], "settings": {"seed": 7, "features": None}},
        {"overrides": ["x=" + "é" * 50_000], "train": TRAIN},
        {"status": Status.failed, "error": Failure(kind=FailureKind.other, type="E", message="m", traceback="")},
    ],
)
def test_lean_runs_hold_what_wandb_writes(changes, make, tmp_path):
    record, output = make_record(**changes), {"": np.array([0.0, 1.0, math.nan])}
    runs = []
    for name, settings in (("lean", {}), ("wandb", {"artifacts": True, "table_max_elements": 0})):
        tracker = registry.make_tracker(
            TrackingSettings(tags=["mine"], entity="team", **settings), tmp_path / name, "demo", print
        )
        assert tracker.log(record, output, tmp_path) is not None
        tracker.close()
        (run,) = offline_runs(tmp_path / name)
        for row in (run["summary"], *run["history"]):
            times = {row.pop(key) for key in list(row) if key in ("_runtime", "_timestamp", "_wandb/runtime")}
            assert name == "wandb" or times <= {1, 1.5, 1767225601.5}
        runs.append(run)
    assert runs[0] == runs[1]


def test_failed_runs_are_tracked_with_reason(make, tmp_path):
    failure = Failure(kind=FailureKind.out_of_memory, type="E", message="m" * 5000, traceback="")
    make().log(make_record(status=Status.failed, error=failure, timing=None, output=[]), {}, tmp_path)
    (run,) = offline_runs(tmp_path)
    assert (run["summary"]["error"][:20], run["exit_code"]) == ("out of memory: E: mm", 1)
    assert len(run["summary"]["error"]) == payload.MAX_MESSAGE_CHARACTERS
    assert run["notes"].startswith("linear, seed 7 on cpu: failed after 1.5 s; checks 1 pass; out of memory. bridge-")
    assert "failed" in run["tags"]


def test_nan_and_infinity_are_logged(make, tmp_path, warnings):
    array = np.array([math.nan, math.inf, -math.inf, 1.0])
    record = make_record(output=[make_array(norm=math.inf, mean=math.nan)])
    make(artifacts=True).log(record, {"": array}, tmp_path)
    (run,) = offline_runs(tmp_path)
    assert (run["summary"]["output/norm"], run["summary"]["output/mean"]) == ("Infinity", "NaN")
    assert sum(run["summary"]["output/histogram/values"]) == 1
    assert [row[2] for row in table(tmp_path, "output/table")["data"]] == ["NaN", "Infinity", "-Infinity", 1]
    assert warnings == []


def test_outputs_of_any_dtype_are_tracked(make, tmp_path, warnings):
    output = {
        "half": np.array([1.5], ml_dtypes.bfloat16),
        "complex": np.array([1 + 2j], np.complex64),
        "truth": np.array(True),
        "whole": np.array([2], np.int8),
        "none": np.zeros((0,)),
    }
    make(artifacts=True).log(make_record(), output, tmp_path)
    (run,) = offline_runs(tmp_path)
    assert sum(run["summary"]["output/half/histogram/values"]) == 1
    rows = {row[0]: row[1:] for row in table(tmp_path, "output/table")["data"]}
    assert rows == {"half": ["[0]", 1.5], "complex": ["[0]", "(1+2j)"], "truth": ["[]", True], "whole": ["[0]", 2]}
    assert warnings == []


def test_a_large_output_has_no_table(make, tmp_path):
    make(artifacts=True, table_max_elements=3).log(make_record(), {"": np.zeros(4)}, tmp_path)
    (run,) = offline_runs(tmp_path)
    assert sum(run["summary"]["output/histogram/values"]) == 4
    assert not [key for key in run["summary"] if key.startswith("output/table")]


def checkpointed(run_dir: Path, keep: str = "all") -> Record:
    """A record whose run has a checkpoint of 9 bytes in `run_dir`."""
    (run_dir / "checkpoint").mkdir(parents=True)
    (run_dir / "checkpoint" / "leaf").write_bytes(b"012345678")
    (run_dir / "record.json").write_text("the record, as it was before tracking added its cost")
    info = CheckpointInfo(path="checkpoint", digest="d1", num_bytes=9, writer="orbax")
    return make_record(checkpoint=info, files={"checkpoint/leaf": "sha256:0"}, settings={"checkpoint": {"keep": keep}})


def test_runs_name_their_checkpoint(make, tmp_path):
    make().log(checkpointed(tmp_path / "run 3"), {}, tmp_path / "run 3")
    (run,) = offline_runs(tmp_path)
    assert run["summary"]["checkpoint"] == str(tmp_path / "run 3" / "checkpoint")
    assert run["artifacts"] == []


def test_artifacts_hold_the_run_folder(make, tmp_path):
    record = checkpointed(tmp_path / "run 3")
    make(artifacts=True).log(record, {}, tmp_path / "run 3")
    (artifact,) = offline_runs(tmp_path)[0]["artifacts"]
    assert (artifact["type"], artifact["metadata"]["digest"], artifact["references"]) == ("checkpoint", "d1", [])
    # It is read where it is: a copy of every checkpoint would double the disk that a sweep takes.
    assert artifact["files"]["checkpoint/leaf"] == str(tmp_path / "run 3" / "checkpoint" / "leaf")
    assert codec.from_json(Path(artifact["files"]["record.json"]).read_bytes()) == record


@pytest.mark.parametrize(("max_bytes", "keep"), [(8, "all"), (9, "last:1")])
def test_large_or_passing_checkpoints_are_references(max_bytes, keep, make, tmp_path):
    record = checkpointed(tmp_path / "run 3", keep)
    make(artifacts=True, artifact_max_bytes=max_bytes).log(record, {}, tmp_path / "run 3")
    (artifact,) = offline_runs(tmp_path)[0]["artifacts"]
    assert (artifact["files"], artifact["metadata"]["files"]) == ({}, False)
    assert artifact["references"] == [(tmp_path / "run 3" / "checkpoint" / "leaf").as_uri()]


def test_numbers_have_axes_and_notes(make, tmp_path):
    make().log(make_record(), {}, tmp_path / "3-a1b2c3d4")
    (run,) = offline_runs(tmp_path)
    assert run["axes"] == {"output/norm": "seed"}
    assert {"output/norm", "seed"} <= run["history"][0].keys()
    command = f"bridge-runner show {tmp_path / '3-a1b2c3d4'}"
    assert run["notes"] == f"linear, seed 7 on cpu: done after 1.5 s; checks 1 pass. {command}"


def test_logging_twice_leaves_one_folder(make, tmp_path):
    other = make_record(run_id="ffffffffffffffff")
    make().log(make_record(wall_s=1.0), {}, tmp_path)
    tracker = make()
    for record in (make_record(wall_s=2.0), other, make_record(wall_s=3.0)):
        tracker.log(record, {}, tmp_path)
    assert {run["run_id"]: run["summary"]["wall_s"] for run in offline_runs(tmp_path)} == {
        "demo-a1b2c3d4e5f6": 3.0,
        "demo-ffffffffffff": 1.5,
    }


def test_sweep_run_holds_the_whole_table(make, tmp_path, warnings):
    rows = [
        {"num": 0, "status": "done", "norm": 1.5},
        {"num": 1, "status": "failed", "note": ["odd"], "norm": math.nan},
    ]
    make().log_sweep("demo, all", rows)
    (run,) = offline_runs(tmp_path)
    assert (run["run_id"], run["name"], run["group"], run["job_type"]) == ("demo-sweep", "demo, all", "demo", "sweep")
    assert (run["summary"]["num_runs"], run["summary"]["num_failed"]) == (2, 1)
    assert table(tmp_path, "runs") == {
        "columns": ["num", "status", "norm", "note"],
        "data": [[0, "done", 1.5, None], [1, "failed", "NaN", "[odd]"]],
    }
    assert warnings == []


def test_sweep_run_has_charts_and_report(make, tmp_path, warnings):
    (tmp_path / "report.html").write_text("<p>all of it</p>")
    (tmp_path / "results.parquet").write_bytes(b"rows")
    rows = [{"num": num, "seed": num, "output_norm": num / 2, "layer": "linear", "features": 8} for num in range(3)]
    make().log_sweep("demo", rows)
    (run,) = offline_runs(tmp_path)
    assert table(tmp_path, "chart/output_norm_by_seed_table")["data"] == [
        [0, 0.0, "linear"],
        [1, 0.5, "linear"],
        [2, 1.0, "linear"],
    ]
    points = [(row["sweep/num"], row["sweep/output_norm"]) for row in run["history"] if "sweep/num" in row]
    assert points == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert run["axes"] == {"sweep/*": "sweep/num"}
    assert "report" in {artifact["type"] for artifact in run["artifacts"]}
    assert run["summary"]["results_digest"] == hashlib.sha256(b"rows").hexdigest()
    assert warnings == []


def test_wandb_failures_warn_once(make, tmp_path, warnings):
    (tmp_path / "wandb").write_text("a file where the folder should be")
    tracker = make()
    tracker.warm()
    assert [tracker.log(make_record(), {}, tmp_path) for _ in range(2)] == [None, None]
    tracker.log_sweep("demo", [])
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B run demo-a1b2c3d4e5f6 is missing or incomplete: FileExistsError: ")


# What an agent, W&B Launch and a user's shell leave to everything that they start.
FOREIGN = {
    "WANDB_RUN_ID": "theirs",
    "WANDB_SWEEP_ID": "sw1",
    "WANDB_SWEEP_PARAM_PATH": "/nowhere.yaml",
    "WANDB_LAUNCH": "true",
    "WANDB_PROJECT": "theirs",
    "WANDB_MODE": "disabled",
    "WANDB_DIR": "/nowhere",
    "WANDB_RESUME": "must",
}


@pytest.mark.parametrize("known_before", [False, True])
def test_runs_keep_their_own_ids(known_before, make, tmp_path, warnings, monkeypatch):
    import wandb

    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()
    shared = wandb.setup().settings if known_before else None
    tracker = make(project="mine")
    for run_id in ("a" * 16, "b" * 16):
        tracker.log(make_record(run_id=run_id), {}, tmp_path)
    tracker.log_sweep("demo", [])
    found = {run["run_id"]: run["project"] for run in offline_runs(tmp_path)}
    assert found == {f"demo-{name}": "mine" for name in ("a" * 12, "b" * 12, "sweep")}
    assert warnings == []
    assert {name: os.environ[name] for name in FOREIGN} == FOREIGN
    assert shared is None or shared.sweep_id == "sw1"


def test_tables_leave_home_untouched(make, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    make().log(make_record(), {"": np.ones(2)}, tmp_path)
    assert not (tmp_path / "home").exists()
    assert "WANDB_DATA_DIR" not in os.environ


@pytest.mark.slow
def test_wandb_is_imported_late_and_silently(tmp_path):
    code = """
import sys
from pathlib import Path
import numpy as np
from runner.tracking import registry
from tests.tracking import test_wandb_tracker
assert not {"wandb", "jax"} & set(sys.modules), "imported early"
tracker = registry.make_tracker(test_wandb_tracker.TrackingSettings(), Path(sys.argv[1]), "demo", print)
tracker.close()
assert "wandb" not in sys.modules, "imported to be closed"
tracker.warm()
assert {"pandas", "wandb.sdk.launch.inputs.internal"} <= set(sys.modules), "left to the first run"
assert tracker.log(test_wandb_tracker.make_record(), {"": np.ones(2)}, Path(sys.argv[1])) is not None
tracker.log_sweep("demo", [{"status": "done"}])
tracker.close()
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(tmp_path)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = os.environ | {
            "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests' / 'support'}",
            "WANDB_BASE_URL": url,
        }
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=120)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(offline_runs(tmp_path)) == 2


def test_disabled_tracks_nothing(make, tmp_path):
    tracker = make(mode=TrackingMode.disabled)
    assert isinstance(tracker, NullTracker)
    assert tracker.log(make_record(), {}, tmp_path) is None
    tracker.log_sweep("demo", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_dead_tracking_process_warns_once(tmp_path, warnings):
    processes = Processes(1)
    tracking = PooledTracking(TrackingSettings(), tmp_path, "demo", warnings.append, processes=processes)
    processes.start()
    processes.wait()
    assert tracking.wait() == []
    worker = processes.submit(os.getpid).result()
    os.kill(worker, signal.SIGKILL)
    for num in range(3):
        tracking.submit(make_record(num=num), {}, tmp_path)
    assert tracking.wait() == []
    tracking.log_sweep("demo", [])
    processes.close()
    tracking.close()
    assert len(warnings) == 1
    assert warnings[0].startswith("a tracking process died: A ")
    assert warnings[0].endswith("; bridge-runner sync makes the W&B runs that are missing")


def test_the_process_of_the_sweep_own_run_alone_has_a_service(tmp_path, warnings):
    processes = Processes(1)
    tracking = PooledTracking(TrackingSettings(), tmp_path, "demo", warnings.append, processes=processes)
    processes.start()
    try:
        tracking.submit(make_record(), {}, tmp_path)
        assert [run_id for run_id, _ in tracking.wait()] == [make_record().run_id]
        assert [len(children_of(one)) for one in (processes, tracking._apart)] == [0, 1]
        tracking.log_sweep("demo", [{"num": 3, "status": "done"}])
        assert (len(offline_runs(tmp_path)), warnings) == (2, [])
        os.kill(tracking._apart.submit(os.getpid).result(), signal.SIGKILL)
        tracking.log_sweep("demo", [])
    finally:
        processes.close()
        tracking.close()
    assert len(warnings) == 1
    assert warnings[0].endswith("; bridge-runner sync makes the W&B runs that are missing")


def children_of(processes):
    return psutil.Process(processes.submit(os.getpid).result()).children()


def test_packages_are_listed_once_per_sweep(make, tmp_path):
    tracker = make()
    tracker.log(make_record(), {}, tmp_path)
    tracker.log_sweep("demo", [{"num": 3, "status": "done"}])
    offline_runs(tmp_path)
    found = [path.parent.parent.name for path in (tmp_path / "wandb").glob("offline-run-*/files/requirements.txt")]
    assert [name.endswith("demo-sweep") for name in found] == [True]


def test_ctrl_c_spares_starting_workers(tmp_path):
    code = """
import os, signal, sys, time
from pathlib import Path
from runner.config.settings.execution import TrackingSettings
from runner.tracking import pool
from runner.tracking.processes import Processes
signal.signal(signal.SIGINT, lambda *_: None)
processes = Processes(1)
tracking = pool.PooledTracking(TrackingSettings(), Path(sys.argv[1]), "demo", print, processes=processes)
processes.start()
for _ in range(10):
    time.sleep(0.1)
    os.killpg(0, signal.SIGINT)
processes.wait()
processes.close()
tracking.close()
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, start_new_session=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
