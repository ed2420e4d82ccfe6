"""Loss-freedom: a sweep that is killed at any instant, again and again, ends as an undisturbed one."""

from __future__ import annotations

import collections
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from started_processes import Started

from runner.arrays import checkpoint, trees
from runner.records import find, store
from runner.records.journal import read_journal
from runner.records.paths import RunFolder, SweepFolder

NUM_RUNS = 40
MAX_KILLS = 4
COMMAND = [sys.executable, "-m", "runner", "-m", "seed=range(0,20)", "features=4,8", "sweep=crashed", "checks=off"]

pytestmark = pytest.mark.slow


def start(folder: Path, *words: str) -> Started[bytes]:
    return Started(
        [*COMMAND, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(folder: Path, *words: str) -> None:
    process = start(folder, *words)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err.decode()


def bits(sweep: SweepFolder) -> dict[str, object]:
    """Digests of every run, after its checkpoint has been restored and compared with its record."""
    found = {}
    for path in (sweep.path / "runs").iterdir():
        record = store.read_record(RunFolder(path))
        restored = checkpoint.restore(path / "checkpoint")
        assert trees.tree_digest(trees.leaves(restored)) == record.checkpoint.digest
        assert record.run_id not in found
        found[record.run_id] = (record.checkpoint.digest, [array.digest for array in record.output])
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder, "tracking=disabled")
    return bits(SweepFolder(folder / "outputs" / "crashed"))


def kill_at_random(folder: Path, chance: random.Random, *words: str) -> bool:
    """Kills a sweep some time after it has begun to write; False if it was done before."""
    journal = folder / "outputs" / "crashed" / "journal.jsonl"
    before = journal.stat().st_size if journal.exists() else 0
    process = start(folder, *words)
    while process.poll() is None and (not journal.exists() or journal.stat().st_size <= before):
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 1.5))
    killed = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return killed


def test_killed_sweeps_end_as_undisturbed_ones(crash_round, undisturbed, tmp_path):
    chance = random.Random(crash_round)
    # Every fourth round with W&B, whose workers take a second to start.
    words = ["tracking=offline" if crash_round % 4 == 0 else "tracking=disabled"]
    kills = 0
    while kills < MAX_KILLS and kill_at_random(tmp_path, chance, *words):
        kills += 1
    finish(tmp_path, *words)
    sweep = SweepFolder(tmp_path / "outputs" / "crashed")
    assert bits(sweep) == undisturbed
    journal = read_journal(sweep.journal)
    events = collections.Counter(event["run_id"] for event in journal if event["event"] == "done")
    assert set(events.values()) == {1}
    assert len(events) == NUM_RUNS
    assert [row.status for row in find.read_rows(sweep)] == ["done"] * NUM_RUNS
    assert all(path.exists() for path in (sweep.results, sweep.results_csv, sweep.report))
    if crash_round % 4 == 0:
        ids = collections.Counter(path.name.split("-", 4)[-1] for path in (sweep.path / "wandb").glob("offline-run-*"))
        assert len(ids) == NUM_RUNS + 1
        assert set(ids.values()) == {1}


@pytest.mark.parametrize("seed", range(2))
def test_kills_never_lose_a_kept_checkpoint(seed, undisturbed, tmp_path):
    chance = random.Random(seed)
    words = ["tracking=disabled", "checkpoint.keep=best:5", "checkpoint.metric=output_norm"]
    sweep = SweepFolder(tmp_path / "outputs" / "crashed")
    kills = 0
    while kills < MAX_KILLS and kill_at_random(tmp_path, chance, *words):
        kills += 1
        best_are_there(sweep, undisturbed)
    finish(tmp_path, *words)
    assert best_are_there(sweep, undisturbed) == NUM_RUNS
    assert sum(row.checkpoint_bytes is not None for row in find.read_rows(sweep)) == 5
    assert len(list(sweep.path.glob("runs/*/checkpoint"))) == 5


def best_are_there(sweep: SweepFolder, undisturbed: dict[str, object]) -> int:
    """Compares the five smallest outputs of the runs that are done with their checkpoints; how many runs are done."""
    done = [row for row in find.read_rows(sweep) if row.status == "done"]
    for row in sorted(done, key=lambda row: (row.output_norm, row.num))[:5]:
        restored = checkpoint.restore(sweep.run(row.num, row.run_id).checkpoint)
        assert trees.tree_digest(trees.leaves(restored)) == undisturbed[row.run_id][0]
    return len(done)


def test_killed_sweeps_leave_no_processes(tmp_path):
    process = start(tmp_path, "tracking=offline")
    journal = tmp_path / "outputs" / "crashed" / "journal.jsonl"
    while process.poll() is None and (not journal.exists() or "done" not in journal.read_text()):
        time.sleep(0.01)
    session = os.getsid(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while (left := in_session(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def in_session(session: int) -> list[int]:
    """Processes of a session that are not merely waiting to be collected."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_a_full_disk_is_resumable(tmp_path, undisturbed):
    small = tmp_path / "outputs"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        process = start(tmp_path, "tracking=disabled")
        _, err = process.communicate(timeout=200)
        assert process.returncode == 2
        assert re.fullmatch(
            r"error: writing run \d+ to outputs/crashed/runs/\S+: No space left on device\.\n"
            r"  Try: make room or choose another output_root; the same command goes on from here\n",
            err.decode(),
        )
        subprocess.run(["mount", "-o", "remount,size=40m", str(small)], check=True)
        finish(tmp_path, "tracking=disabled")
        assert bits(SweepFolder(small / "crashed")) == undisturbed
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_read_only_folders_are_reported(tmp_path):
    folder = tmp_path / "outputs"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        process = start(tmp_path, "tracking=disabled")
        _, err = process.communicate(timeout=200)
        assert process.returncode == 2
        assert "outputs is not writable.\n  Try: output_root=~/outputs" in err.decode()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
