"""A search that is stopped and killed again and again ends as one that was not: no trial lost, no run done twice."""

from __future__ import annotations

import collections
import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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


@contextlib.contextmanager
def told_more(folder: Path) -> Iterator[subprocess.Popen]:
    """A search that has told of one trial more than there were, or is done."""
    trials = folder / "outputs" / "crashed" / "trials.jsonl"
    before = trials.stat().st_size if trials.exists() else 0
    with Started(COMMAND, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and (not trials.exists() or trials.stat().st_size <= before):
            time.sleep(0.002)
        yield process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, float]:
    """The folder of a whole search, and the seconds from its first trial to its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with told_more(folder) as process:
        start = time.monotonic()
        assert process.wait(timeout=200) == 0
    return folder, time.monotonic() - start


def stop_at_random(folder: Path, chance: random.Random, longest_s: float, number: signal.Signals) -> bool:
    """Stops a search at most so long after its first trial; False if it was done before."""
    with told_more(folder) as process:
        time.sleep(chance.uniform(0, longest_s))
        stopped = process.poll() is None
        process.send_signal(number)
    return stopped


def test_killed_searches_end_as_uninterrupted_ones(undisturbed, tmp_path):
    chance = random.Random(0)
    signals = [signal.SIGKILL, signal.SIGINT] * (MAX_KILLS // 2)
    folder, search_s = undisturbed
    assert sum(stop_at_random(tmp_path, chance, search_s / MAX_KILLS, number) for number in signals) > 1
    subprocess.run(COMMAND, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    assert told(tmp_path) == told(folder)
    assert [number for number, *_ in told(tmp_path)] == list(range(NUM_TRIALS))
    events = store.read_events(SweepFolder(tmp_path / "outputs" / "crashed"))
    done = collections.Counter(event["run_id"] for event in events if event["event"] == "done")
    assert set(done.values()) == {1}
    assert done.keys() == {run_id for *_, run_id in told(tmp_path)}


def test_search_runs_equal_standalone_runs(undisturbed, tmp_path):
    folder, _ = undisturbed
    runs = {store.read_record(RunFolder(path)).run_id: path for path in folder.glob("outputs/crashed/runs/*")}
    for number, overrides, value, run_id in told(folder):
        with contextlib.chdir(tmp_path):
            assert main.main([*LEAN, *overrides, f"sweep=alone{number}"]) == 0
            (alone,) = Path("outputs", f"alone{number}", "runs").iterdir()
            assert bits(alone.absolute()) == bits(runs[run_id])
            assert bits(alone.absolute())[2][-1] == value
