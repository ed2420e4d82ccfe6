"""The loss curve in W&B while a run still trains: in its file, on a server, and once in the end whatever happened."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from started_processes import Started
from tracked_records import make_record
from wandb_reader import read_offline_run

from runner.config.enums import TrackingMode
from runner.config.settings.execution import TrackingSettings
from runner.records.record import Head, Record, TrainInfo
from runner.records.timing import Phases
from runner.tracking.online import OnlineTracking
from runner.tracking.pool import make_tracking
from runner.tracking.processes import Processes
from runner.tracking.tracker import Tracking
from tests.tracking.test_online import state, wait_for

LOSSES = [4.0, 2.0, 1.0, 0.5]
STEP = Phases(trace_s=0.1, lower_s=0.1, compile_s=0.1, cache="off")
TRAIN = TrainInfo(first_step=3, losses=LOSSES, step=STEP, steps_s=[0.1] * 4, not_moved=[])

# A step takes as long as a user's does; the callback has no gradient, so it is kept off what has.
SLOW = """
import time, jax
from flax import nnx

class Slow(nnx.Linear):
    def __call__(self, x):
        wait = lambda x: time.sleep(0.03) or x
        y = jax.lax.stop_gradient(x)
        return super().__call__(x) + 0 * jax.pure_callback(wait, jax.ShapeDtypeStruct(y.shape, y.dtype), y).sum()
"""
COMMAND = ["layer=custom", "layer.target=slow.Slow", "+layer.kwargs.in_features=4", "+layer.kwargs.out_features=2"]
COMMAND += ["train.steps=100", "timing=off", "checks=off", "sweep=slow"]


def head_of(record: Record) -> Head:
    return Head(**{name: getattr(record, name) for name in Head.__dataclass_fields__})


def trained(**changes: Any) -> Record:
    return make_record(train=TRAIN, **changes)


def losses_in(folder: Path) -> list[tuple[int, float]]:
    rows = read_offline_run(folder)["history"]
    return [(row["train/step"], row["train/loss"]) for row in rows if "train/loss" in row]


def offline_runs(folder: Path) -> list[Path]:
    """Those that have a file by now: the folder comes first."""
    return sorted({file.parent for file in (folder / "wandb").glob("offline-run-*/*.wandb")})


def content(run: dict[str, Any]) -> dict[str, Any]:
    """What a run holds, without when it was made and where its media are."""

    def lasting(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key[0] != "_" and not key.startswith("output/table")}

    rows = [lasting(row) for row in run["history"]]
    return run | {"tags": sorted(run["tags"]), "history": rows, "summary": lasting(run["summary"])}


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, warnings: list[str]) -> Iterator[Callable[..., Tracking]]:
    made: list[Tracking] = []
    stack = contextlib.ExitStack()

    def make_one(folder: str = "sweep", *, num_runs: int = 1, mode: str = "offline") -> Tracking:
        path, settings = tmp_path / folder, TrackingSettings(mode=TrackingMode(mode))
        path.mkdir(exist_ok=True)
        processes = Processes(1)
        made.append(make_tracking(settings, path, "demo", warnings.append, num_runs=num_runs, processes=processes))
        stack.callback(processes.close)
        processes.start()
        return made[-1]

    yield make_one
    stack.close()
    for tracking in made:
        tracking.close()


def test_followed_runs_end_like_unfollowed_ones(make, tmp_path):
    for name, num_told in (("followed", 3), ("not", 0)):
        tracking, record = make(name), trained()
        follow = tracking.follow(head_of(record), tmp_path)
        for num in range(num_told):
            follow.tell(3 + num, LOSSES[num : num + 1])
        tracking.submit(record, {"": np.ones(2, np.float32)}, tmp_path)
    folders = [run for name in ("followed", "not") for run in offline_runs(tmp_path / name)]
    wait_for(lambda: [read_offline_run(folder)["exit_code"] for folder in folders] == [0, 0])
    assert losses_in(folders[0]) == list(enumerate(LOSSES, start=3))
    followed, other = (content(read_offline_run(folder)) for folder in folders)
    assert followed == other


def test_losses_are_written_during_the_run(make, tmp_path):
    follow = make().follow(head_of(trained()), tmp_path)
    assert follow.folder is None
    follow.tell(3, LOSSES[:2])
    wait_for(lambda: losses_in(follow.folder) == [(3, 4.0), (4, 2.0)])
    assert read_offline_run(follow.folder)["exit_code"] is None


@pytest.mark.slow
def test_training_process_ends_the_followed_run(make, tmp_path):
    tracking = make(num_runs=6)
    record, other = trained(), trained(run_id="b" * 16, num=4)
    for one, told in ((record, LOSSES[:1]), (other, [])):
        follow = tracking.follow(head_of(one), tmp_path)
        follow.tell(3, told) if told else None
        tracking.submit(one, {}, tmp_path)
    assert sorted(run_id for run_id, _ in tracking.wait()) == sorted([record.run_id, other.run_id])
    tracking.close()
    runs = offline_runs(tmp_path / "sweep")
    assert [losses_in(run) for run in runs] == [list(enumerate(LOSSES, start=3))] * 2


def test_runs_are_tracked_even_without_followers(make, tmp_path, warnings):
    tracking = make()
    (tmp_path / "sweep" / "wandb").write_text("a file where the folder should be")
    follow = tracking.follow(head_of(trained()), tmp_path)
    for num in range(3):
        follow.tell(3 + num, [1.0])
    follow.end()
    assert follow.folder is None
    (warning,) = warnings
    assert warning.startswith("W&B run demo-a1b2c3d4e5f6 is missing or incomplete: FileExistsError: ")
    (tmp_path / "sweep" / "wandb").unlink()
    tracking.submit(trained(), {}, tmp_path)
    tracking.close()
    (run,) = offline_runs(tmp_path / "sweep")
    assert losses_in(run) == list(enumerate(LOSSES, start=3))


@pytest.mark.parametrize("mode", ["disabled", "tensorboard"])
def test_there_is_nothing_to_follow_elsewhere(make, tmp_path, mode):
    assert make(mode=mode).follow(head_of(trained()), tmp_path) is None


def start(folder: Path, *words: str) -> Started[str]:
    (folder / "slow.py").write_text(SLOW)
    command = [sys.executable, "-m", "runner", *COMMAND, *words]
    return Started(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_followed_runs_appear_once(tmp_path):
    sweep = tmp_path / "outputs" / "slow"
    with start(tmp_path) as process:
        wait_for(lambda: any(losses_in(run) for run in offline_runs(sweep)))
        assert not list(sweep.glob("runs/*/record.json"))
        process.send_signal(signal.SIGKILL)
    with start(tmp_path) as process:
        assert process.communicate()[1] == ""
    (path,) = sweep.glob("runs/*/record.json")
    (run,) = offline_runs(sweep)
    assert losses_in(run) == list(enumerate(json.loads(path.read_text())["train"]["losses"]))
    assert read_offline_run(run)["exit_code"] == 0


@pytest.mark.slow
def test_server_sees_the_curve_grow(server, make, tmp_path):
    tracking = make(mode="online")
    assert isinstance(tracking, OnlineTracking)
    follow = tracking.follow(head_of(trained()), tmp_path)
    follow.tell(3, LOSSES[:1])
    wait_for(lambda: any(run.history for run in server.runs.values()))
    (run,) = server.runs.values()
    assert (run.history[0]["train/loss"], run.exit_code) == (4.0, None)
    live = tracking._live
    follow.end()
    wait_for(lambda: state(live.pid) == "T")
    follow.tell(4, LOSSES[1:2])
    wait_for(lambda: state(live.pid) != "T")
    tracking.submit(trained(), {}, tmp_path)
    assert not Path(f"/proc/{live.pid}").exists()


@pytest.mark.slow
def test_command_streams_losses_while_training(server, tmp_path):
    with start(tmp_path, "tracking=online", "tracking.patience_s=60", "train.steps=700") as process:
        wait_for(lambda: any(run.history for run in server.runs.values()))
        assert process.poll() is None
        assert not list(tmp_path.glob("outputs/slow/runs/*/record.json"))
        assert process.communicate()[1] == ""
    (run,) = server.runs.values()
    assert run.exit_code == 0
    assert [row["train/step"] for row in run.history if "train/loss" in row] == list(range(700))
