"""The W&B replica, with the real wandb: what is written is read back from its files."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from wandb_reader import read_offline_run

from runner import records, tracking
from runner.records import Record, Status
from runner.settings import TrackingMode, TrackingSettings

API_KEY = "0123456789abcdef0123456789abcdef01234567"
SUMMARY = records.Summary(
    num_samples=3,
    median_s=2e-6,
    min_s=1e-6,
    max_s=4e-6,
    mean_s=2e-6,
    std_s=1e-6,
    quartile1_s=1e-6,
    quartile3_s=3e-6,
    mad_s=1e-6,
    median_low_s=None,
    median_high_s=None,
    num_outliers=0,
    flags=["short", "spread"],
)


def make_record(**changes: Any) -> Record:
    phases = records.Phases(trace_s=0.1, lower_s=0.2, compile_s=0.3, cache="cold")
    samples = records.Samples(durations_s=[1e-6, 2e-6, 4e-6])
    timing = records.Timing(
        construct_s=0.01,
        init=phases,
        apply=phases,
        compiled_here=True,
        apply_latency=records.Measurement(samples=samples, summary=SUMMARY),
    )
    record = Record(
        run_id="a1b2c3d4e5f60718",
        result_id="r1",
        timing_id="t1",
        program_id="p1",
        sweep="demo",
        num=3,
        status=Status.done,
        started_at="2026-01-01T00:00:00Z",
        wall_s=1.5,
        overrides=["seed=7", "layer=linear"],
        settings={"seed": 7, "layer": {"name": "linear", "kwargs": {"deep": {"deeper": {"deepest": 1}}}}},
        layer="linear",
        device="cpu:0",
        platform="cpu",
        variables=[records.Leaf(path=["params", "kernel"], shape=[4, 8], dtype="float32", num_bytes=128, digest="d")],
        output=[make_array()],
        checks=[records.Check(name="finite", verdict=records.Verdict.yes, detail="all are")],
        timing=timing,
        fingerprint={"software_id": "s1", "machine_id": "m1"},
    )
    return dataclasses.replace(record, **changes)


def make_array(path: str = "", norm: float | None = 2.0, mean: float | None = 0.5) -> records.ArraySummary:
    sizes = {"shape": [2], "num_elements": 2, "num_non_finite": 0}
    return records.ArraySummary(
        path=path, dtype="float32", digest="d", norm=norm, mean=mean, std=1.0, min=0, max=1, **sizes
    )


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, warnings: list[str]) -> Iterator[Callable[..., tracking.Tracker]]:
    made = []

    def make_one(**settings: Any) -> tracking.Tracker:
        made.append(tracking.make_tracker(TrackingSettings(**settings), tmp_path, "demo", warnings.append))
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


@contextlib.contextmanager
def refusing_server() -> Iterator[str]:
    """The URL of a server that is there and lets nobody in."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def table(folder: Path, key: str) -> dict[str, Any]:
    (path,) = (folder / "wandb").glob(f"offline-run-*/files/media/table/{key}_*.table.json")
    return json.loads(path.read_text())


def test_the_offline_run_holds_what_was_logged(make, tmp_path, warnings):
    tracker = make(tags=["mine"], notes="why")
    assert 0 < tracker.log(make_record(), {"": np.array([0.0, 1.0], np.float32)}, tmp_path) < 60
    (run,) = offline_runs(tmp_path)
    assert (run["run_id"], run["name"], run["group"]) == ("demo-a1b2c3d4e5f6", "3-linear-s7", "demo")
    assert (run["job_type"], run["project"], run["notes"], run["exit_code"]) == ("linear", "bridge-runner", "why", 0)
    assert sorted(run["tags"]) == ["cpu", "done", "linear", "mine"]
    assert run["config"] == {**make_record().settings, "overrides": "seed=7 layer=linear"}
    assert tracking.summary_of(make_record()).items() <= run["summary"].items()
    (row,) = run["history"]
    assert (row["seed"], row["output/norm"], row["timing/apply_latency/median_s"]) == (7, 2.0, 2e-6)
    assert sum(row["timing/apply_latency/samples_s/values"]) == 3
    assert sum(run["summary"]["output/histogram/values"]) == 2
    assert table(tmp_path, "output/table")["data"] == [["", "[0]", 0], ["", "[1]", 1]]
    assert warnings == []


def test_a_summary_is_numbers_with_their_flags():
    summary = tracking.summary_of(make_record())
    assert summary["timing/apply_latency/median_s"] == 2e-6
    assert summary["timing/apply_latency/flags"] == "short, spread"
    assert "timing/apply_latency/median_low_s" not in summary
    assert (summary["init/trace_s"], summary["apply/compile_s"], summary["apply/cache"]) == (0.1, 0.3, "cold")
    assert (summary["output/norm"], summary["output/mean"], summary["output/std"]) == (2.0, 0.5, 1.0)
    assert (summary["num_params"], summary["variables_bytes"], summary["construct_s"]) == (32, 128, 0.01)
    assert (summary["check/finite"], summary["status"], summary["software_id"]) == ("yes", "done", "s1")


def test_a_summary_of_several_arrays_names_each():
    summary = tracking.summary_of(make_record(output=[make_array("a", mean=1.0), make_array("b", mean=2.0)]))
    assert (summary["output/a/mean"], summary["output/b/mean"]) == (1.0, 2.0)
    assert summary["output/norm"] == pytest.approx(8**0.5)


def test_a_failed_run_is_tracked_with_its_reason(make, tmp_path):
    failure = records.Failure(kind=records.FailureKind.out_of_memory, type="E", message="m" * 5000, traceback="")
    make().log(make_record(status=Status.failed, error=failure, timing=None, output=[]), {}, tmp_path)
    (run,) = offline_runs(tmp_path)
    assert (run["summary"]["error/kind"], run["exit_code"]) == ("out of memory", 1)
    assert len(run["summary"]["error/message"]) == tracking.MAX_MESSAGE_CHARACTERS
    assert "failed" in run["tags"]


def test_nan_and_infinity_reach_the_run_by_name(make, tmp_path, warnings):
    array = np.array([math.nan, math.inf, -math.inf, 1.0])
    make().log(make_record(output=[make_array(norm=math.inf, mean=math.nan)]), {"": array}, tmp_path)
    (run,) = offline_runs(tmp_path)
    assert (run["summary"]["output/norm"], run["summary"]["output/mean"]) == ("Infinity", "NaN")
    assert sum(run["summary"]["output/histogram/values"]) == 1
    assert [row[2] for row in table(tmp_path, "output/table")["data"]] == ["NaN", "Infinity", "-Infinity", 1]
    assert warnings == []


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
def test_a_histogram_counts_the_finite_values_of_any_array(values, num_counted):
    histogram = tracking.histogram_of(values)
    assert (histogram and histogram[0].sum()) == num_counted
    assert histogram is None or len(histogram[1]) == len(histogram[0]) + 1


def test_outputs_of_any_element_type_are_tracked(make, tmp_path, warnings):
    output = {
        "half": np.array([1.5], ml_dtypes.bfloat16),
        "complex": np.array([1 + 2j], np.complex64),
        "truth": np.array(True),
        "whole": np.array([2], np.int8),
        "none": np.zeros((0,)),
    }
    make().log(make_record(), output, tmp_path)
    (run,) = offline_runs(tmp_path)
    assert sum(run["summary"]["output/half/histogram/values"]) == 1
    rows = {row[0]: row[1:] for row in table(tmp_path, "output/table")["data"]}
    assert rows == {"half": ["[0]", 1.5], "complex": ["[0]", "(1+2j)"], "truth": ["[]", True], "whole": ["[0]", 2]}
    assert warnings == []


def test_a_large_output_has_no_table(make, tmp_path):
    make(table_max_elements=3).log(make_record(), {"": np.zeros(4)}, tmp_path)
    (run,) = offline_runs(tmp_path)
    assert sum(run["summary"]["output/histogram/values"]) == 4
    assert not [key for key in run["summary"] if key.startswith("output/table")]


def test_the_checkpoint_is_a_reference_with_our_digest(make, tmp_path):
    checkpoint = tmp_path / "run 3" / "checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "leaf").write_bytes(b"012345678")
    info = records.CheckpointInfo(path="checkpoint", digest="d1", num_bytes=9, writer="orbax")
    make(table_max_elements=0).log(make_record(checkpoint=info), {}, tmp_path / "run 3")
    (artifact,) = offline_runs(tmp_path)[0]["artifacts"]
    assert (artifact["type"], artifact["metadata"]["digest"]) == ("checkpoint", "d1")
    assert artifact["references"] == [(checkpoint / "leaf").as_uri()]


def test_the_same_run_logged_twice_leaves_one_folder(make, tmp_path):
    other = make_record(run_id="ffffffffffffffff")
    make().log(make_record(wall_s=1.0), {}, tmp_path)
    tracker = make()
    for record in (make_record(wall_s=2.0), other, make_record(wall_s=3.0)):
        tracker.log(record, {}, tmp_path)
    assert {run["run_id"]: run["summary"]["wall_s"] for run in offline_runs(tmp_path)} == {
        "demo-a1b2c3d4e5f6": 3.0,
        "demo-ffffffffffff": 1.5,
    }


def test_the_run_of_the_sweep_holds_the_whole_table(make, tmp_path, warnings):
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


def test_a_server_that_is_not_there_makes_the_sweep_offline(make, tmp_path, warnings, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    tracker = make(mode=TrackingMode.online)
    for num in range(2):
        assert tracker.log(make_record(num=num, run_id=f"run-{num}"), {"": np.ones(2)}, tmp_path) is not None
    assert len(offline_runs(tmp_path)) == 2
    assert len(warnings) == 1
    assert warnings[0].startswith("tracking.mode=online: URLError: ")
    assert "stay offline; `wandb sync` sends them later" in warnings[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and API_KEY.encode() in path.read_bytes()]


def test_a_server_that_refuses_the_key_makes_the_sweep_offline(make, tmp_path, warnings, monkeypatch):
    with refusing_server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        tracker = make(mode=TrackingMode.online)
        assert warnings == []
        for num in range(2):
            assert tracker.log(make_record(num=num, run_id=f"run-{num}"), {}, tmp_path) is not None
    assert [run["run_id"] for run in offline_runs(tmp_path)] == ["demo-run-0", "demo-run-1"]
    assert not list((tmp_path / "wandb").glob("run-*"))
    assert [warning.split(": ")[:2] for warning in warnings] == [["tracking.mode=online", "CommError"]]


def test_without_a_key_the_sweep_is_offline(make, warnings, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "none"))
    with refusing_server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        make(mode=TrackingMode.online)
    (warning,) = warnings
    assert "no API key is configured" in warning


def test_a_failure_of_wandb_is_said_once_and_never_raised(make, tmp_path, warnings):
    (tmp_path / "wandb").write_text("a file where the folder should be")
    tracker = make()
    assert [tracker.log(make_record(), {}, tmp_path) for _ in range(2)] == [None, None]
    tracker.log_sweep("demo", [])
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B run demo-a1b2c3d4e5f6 is missing or incomplete: FileExistsError: ")


def test_tables_leave_nothing_in_the_users_home(make, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    make().log(make_record(), {"": np.ones(2)}, tmp_path)
    assert not (tmp_path / "home").exists()
    assert "WANDB_DATA_DIR" not in os.environ


def test_wandb_is_imported_late_prints_nothing_and_sends_nothing(tmp_path):
    code = """
import sys
from pathlib import Path
import numpy as np
import test_tracking
from runner import tracking
assert not {"wandb", "jax"} & set(sys.modules), "imported early"
tracker = tracking.make_tracker(test_tracking.TrackingSettings(), Path(sys.argv[1]), "demo", print)
assert tracker.log(test_tracking.make_record(), {"": np.ones(2)}, Path(sys.argv[1])) is not None
tracker.log_sweep("demo", [{"status": "done"}])
tracker.close()
"""
    here = Path(__file__).parent
    command = [sys.executable, "-c", code, str(tmp_path)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}", "WANDB_BASE_URL": url}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=120)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(offline_runs(tmp_path)) == 2


@pytest.mark.parametrize("sweep", ["demo", "a.b", "x" * 100])
def test_an_id_is_safe_and_its_own(sweep):
    ids = {tracking.wandb_id(sweep, name) for name in ("a1", "a2")} | {tracking.wandb_id("a-b", "a1")}
    assert len(ids) == 3
    assert all(len(one) <= 64 and one.replace("-", "").isalnum() for one in ids)


def test_disabled_tracks_nothing(make, tmp_path):
    tracker = make(mode=TrackingMode.disabled)
    assert isinstance(tracker, tracking.NullTracker)
    assert tracker.log(make_record(), {}, tmp_path) is None
    tracker.log_sweep("demo", [])
    assert list(tmp_path.iterdir()) == []


def test_packages_and_machine_are_listed_once_a_sweep(make, tmp_path):
    tracker = make()
    tracker.log(make_record(), {}, tmp_path)
    tracker.log_sweep("demo", [{"num": 3, "status": "done"}])
    offline_runs(tmp_path)
    found = [path.parent.parent.name for path in (tmp_path / "wandb").glob("offline-run-*/files/requirements.txt")]
    assert [name.endswith("demo-sweep") for name in found] == [True]
