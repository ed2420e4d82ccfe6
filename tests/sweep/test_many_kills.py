"""Loss-freedom in numbers: hundreds of kills, and closed terminals; how many were tried, and how many lost nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import killed_sweeps
import pytest
from started_processes import Started

from runner.arrays import checkpoint, trees
from runner.commands import main
from runner.records import find, store
from runner.records.journal import read_journal
from runner.records.paths import ASIDE, RunFolder, SweepFolder
from runner.records.record import FailureKind

pytestmark = pytest.mark.slow

NUM_TERMINALS = 3


def bits(sweep: SweepFolder) -> dict[int, object]:
    """Digests of every run by its number, after its checkpoint was restored and compared with its record.

    A run that was at it in many kills is recorded as their cause, and that record moved aside once it is tried again.
    """
    found: dict[int, object] = {}
    for path in (sweep.path / "runs").iterdir():
        record = store.read_record(RunFolder(path))
        if ASIDE in path.name:
            assert record.error is not None and record.error.kind is FailureKind.died
            continue
        restored = checkpoint.restore((path / "checkpoint").absolute())
        assert trees.tree_digest(trees.leaves(restored)) == record.checkpoint.digest
        found[record.num] = (record.checkpoint.digest, [array.digest for array in record.output])
    return found


def require_whole(sweep: SweepFolder, undisturbed: dict[int, object]) -> None:
    assert bits(sweep) == undisturbed
    assert {row.status for row in find.read_rows(sweep)} == {"done"}
    assert all(path.exists() for path in (sweep.results, sweep.results_csv, sweep.report))


@pytest.fixture
def undisturbed(tmp_path, monkeypatch) -> dict[int, object]:
    monkeypatch.chdir(tmp_path)
    assert main.main([*killed_sweeps.WORDS, *killed_sweeps.QUICK, "sweep=undisturbed"]) == 0
    return bits(SweepFolder(Path("outputs/undisturbed")))


def test_many_kills_lose_nothing(undisturbed, request, capsys):
    num = request.config.getoption("--kills")
    shares = [num // 2, num - num // 2]
    words = [sys.executable, killed_sweeps.__file__]
    pipes = {"stdout": subprocess.PIPE, "text": True}
    both = [Started([*words, str(seed), str(share)], **pipes) for seed, share in enumerate(shares)]
    told = [json.loads(process.communicate(timeout=800)[0].splitlines()[-1]) for process in both]
    assert [line for one in told for line in one["wrong"]] == []
    names = [name for one in told for name in one["names"]]
    for name in names:
        require_whole(SweepFolder(Path("outputs", name)), undisturbed)
    held = sum(one["held"] for one in told)
    with capsys.disabled():
        print(f"\nkills of {len(names)} sweeps: tried {sum(one['tried'] for one in told)} / held {held}")
    assert held == num


def test_closed_terminals_lose_nothing(undisturbed, capsys):
    held = 0
    for seed in range(NUM_TERMINALS):
        sweep = SweepFolder(Path(f"outputs/closed-{seed}"))
        close_terminal(sweep, random.Random(seed))
        kept = {event["run_id"] for event in read_journal(sweep.journal) if event["event"] == "done"}
        before = {path: path.stat().st_mtime_ns for path in sweep.path.glob("runs/*/record.json")}
        assert main.main(["resume", str(sweep.path)]) == 0
        require_whole(sweep, undisturbed)
        finished = [path for path in before if json.loads(path.read_text())["run_id"] in kept]
        assert len(finished) == len(kept) and all(path.stat().st_mtime_ns == before[path] for path in finished)
        held += 1
    with capsys.disabled():
        print(f"\nclosed terminals: tried {NUM_TERMINALS} / held {held}")


def close_terminal(sweep: SweepFolder, chance: random.Random) -> None:
    """Starts a sweep in a terminal of its own, and closes that some time after its first runs: a SIGHUP."""
    ours, theirs = os.openpty()
    code = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from runner.commands import main; "
    words = [sys.executable, "-c", f"{code}main.entry()", *killed_sweeps.WORDS, *killed_sweeps.QUICK]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process: Started[bytes] = Started([*words, f"sweep={sweep.name}"], **streams, start_new_session=True)
    os.close(theirs)
    os.set_blocking(ours, False)
    while process.poll() is None and not (sweep.journal.exists() and b"done" in sweep.journal.read_bytes()):
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 65536)
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.1))
    os.close(ours)
    assert process.wait(timeout=60) != 0
