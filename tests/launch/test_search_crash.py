"""A search that is stopped and killed again and again ends as one that was not: no trial lost, no run done twice."""

from __future__ import annotations

import collections
import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from started_processes import Started

from runner.commands import main
from runner.records import find, store
from runner.records.paths import RunFolder, SweepFolder

NUM_TRIALS = 12
MAX_KILLS = 4
LEAN = ("tracking=disabled", "timing=off", "checks=off", "train=short", "train.steps=3")
SPACE = ("train.learning_rate=tag(log,interval(1e-4,1))", "seed=int(interval(0,9))", "features=4,8")
WORDS = ("-m", "hydra/sweeper=optuna", "search.objective=loss_last", *LEAN, *SPACE, "search.n_jobs=3", "sweep=crashed")
COMMAND = [sys.executable, "-m", "runner", *WORDS, f"search.n_trials={NUM_TRIALS}"]

pytestmark = pytest.mark.slow


def told(folder: Path) -> list[tuple]:
    trials = find.read_trials(SweepFolder(folder / "outputs" / "crashed"))
    return sorted((trial.number, tuple(trial.overrides), trial.value, trial.run_id) for trial in trials)


def bits(path: Path):
    record = store.read_record(RunFolder(path))
    return [leaf.digest for leaf in record.variables], [array.digest for array in record.output], record.train.losses


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(COMMAND, cwd=folder, check=True, capture_output=True, timeout=200)
    return folder


def stop_at_random(folder: Path, chance: random.Random, number: signal.Signals) -> bool:
    """Stops a search some time after it has begun to ask; False if it was done before."""
    trials = folder / "outputs" / "crashed" / "trials.jsonl"
    before = trials.stat().st_size if trials.exists() else 0
    with Started(COMMAND, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and (not trials.exists() or trials.stat().st_size <= before):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 2))
        stopped = process.poll() is None
        process.send_signal(number)
    return stopped


def test_killed_searches_end_as_uninterrupted_ones(undisturbed, tmp_path):
    chance = random.Random(0)
    signals = [signal.SIGKILL, signal.SIGINT] * (MAX_KILLS // 2)
    assert sum(stop_at_random(tmp_path, chance, number) for number in signals) > 1
    subprocess.run(COMMAND, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    assert told(tmp_path) == told(undisturbed)
    assert [number for number, *_ in told(tmp_path)] == list(range(NUM_TRIALS))
    events = store.read_events(SweepFolder(tmp_path / "outputs" / "crashed"))
    done = collections.Counter(event["run_id"] for event in events if event["event"] == "done")
    assert set(done.values()) == {1}
    assert done.keys() == {run_id for *_, run_id in told(tmp_path)}


def test_search_runs_equal_standalone_runs(undisturbed, tmp_path):
    runs = {store.read_record(RunFolder(path)).run_id: path for path in undisturbed.glob("outputs/crashed/runs/*")}
    for number, overrides, value, run_id in told(undisturbed):
        with contextlib.chdir(tmp_path):
            assert main.main([*LEAN, *overrides, f"sweep=alone{number}"]) == 0
            (alone,) = Path("outputs", f"alone{number}", "runs").iterdir()
            assert bits(alone.absolute()) == bits(runs[run_id])
            assert bits(alone.absolute())[2][-1] == value
