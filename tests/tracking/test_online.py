"""W&B runs sent while a sweep goes on, by a real process beside it, to servers that are well, dead, slow or dying."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from started_processes import Started
from tracked_records import make_record
from wandb_sent import API_KEY, environment, execute, files_with_a_key
from wandb_server import HANG, serve

from runner.tracking import wandb_files
from runner.tracking.online import OnlineTracking, children
from runner.tracking.pool import InlineTracking
from runner.tracking.tracker import NullTracker

pytestmark = pytest.mark.slow


def online(sweep: Path, warnings: list[str], patience_s: float = 60) -> OnlineTracking:
    """What a sweep at its end holds: the files are made."""
    return OnlineTracking(InlineTracking(NullTracker()), sweep, warnings.append, patience_s=patience_s, at_once=True)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_all_runs_are_sent_by_end(server, sweep):
    warnings: list[str] = []
    online(sweep, warnings).close()
    assert (len(server.runs), warnings) == (5, [])
    assert len(wandb_files.read_sent(sweep / "wandb", server.url)) == 5


def test_missing_server_loses_nothing(server, sweep, sync, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    tracking = online(sweep, warnings)
    wait_for(lambda: tracking.sender.failed)
    for _ in range(3):
        tracking.submit(make_record(), {}, sweep)
    tracking.close()
    assert warnings == [
        "tracking.mode=online: no W&B server answers at http://127.0.0.1:9: [Errno 111] Connection refused. "
        f"This sweep's W&B runs stay offline; bridge-runner sync {sweep} sends what is missing"
    ]
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    assert sync(sweep)[0] == 0


def test_slow_servers_are_refused(server, sweep):
    server.fault = lambda what, sent: time.sleep(1.1)
    tracking = online(sweep, warnings := [])
    tracking.close()
    assert re.fullmatch(
        r"tracking.mode=online: the W&B server at \S+ takes \d\.\d s for an answer", warnings[0].split(". ")[0]
    )


def test_dying_servers_are_not_awaited(server, sweep, sync):
    server.fault = lambda what, sent: HANG if server.asked["RunOutputArtifacts"] > 2 else None
    warnings: list[str] = []
    tracking = online(sweep, warnings, patience_s=0.5)
    wait_for(lambda: len(wandb_files.read_sent(sweep / "wandb")) == 2)
    tracking.close()
    assert [warning.split(". ")[0] for warning in warnings] == ["tracking.mode=online: the W&B server is too slow"]
    assert len(wandb_files.read_sent(sweep / "wandb", server.url)) == 2
    server.fault = lambda what, sent: None
    assert sync(sweep)[1].startswith(f"{sweep.name}: 5 W&B runs, 2 sent before\n")


def test_nothing_is_sent_during_measurements(server, sweep):
    server.fault = lambda what, sent: HANG if what == "UpsertBucket" else None
    tracking = online(sweep, warnings := [], patience_s=0.1)
    wait_for(lambda: server.asked["UpsertBucket"] > 0)
    pid = tracking.sender.pid
    started = [pid, *children(pid)]
    tracking.wait()
    assert len(started) == 2
    wait_for(lambda: [state(pid) for pid in started] == ["T", "T"])
    tracking.submit(make_record(), {}, sweep)
    wait_for(lambda: "T" not in [state(pid) for pid in started])
    tracking.wait()
    tracking.close()
    assert len(warnings) == 1
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def test_killed_sweeps_leave_no_stopped_process(server, sweep):
    server.fault = lambda what, sent: HANG if what == "UpsertBucket" else None
    code = "import sys; from pathlib import Path; from runner.tracking.online import Sender, children\n"
    code += "sender = Sender(Path(sys.argv[1]), '--watch'); input(); sender.pause()\n"
    code += "print(sender.pid, *children(sender.pid), flush=True); input()"
    command = [sys.executable, "-c", code, str(sweep)]
    with Started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        wait_for(lambda: server.asked["UpsertBucket"] > 0)
        parent.stdin.write("\n")
        parent.stdin.flush()
        started = [int(word) for word in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert len(started) == 2
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


@pytest.mark.parametrize("fault", ["dead", "hangs", "500", "429", "dies"])
def test_sweeps_finish_whatever_the_server_does(tmp_path, fault):
    answers = {
        "hangs": lambda what, sent: HANG,
        "500": lambda what, sent: 500 if what != "GET" else None,
        "429": lambda what, sent: 429 if what != "GET" else None,
        "dies": lambda what, sent: HANG if running.asked["RunOutputArtifacts"] > 2 else None,
    }
    with serve() as running:
        running.fault = answers.get(fault, running.fault)
        running.retry_after_s = 60
        known = environment(tmp_path / "home", "http://127.0.0.1:9" if fault == "dead" else running.url)
        words = ("-m", "seed=0,1,2,3", "features=8,16", "tracking=online", "sweep=one")
        done = execute(tmp_path, "runner", *words, environment=known)
        assert done.returncode == 0
        assert done.stderr.count("tracking.mode=online: ") == len(done.stderr.splitlines()) == 1
        assert "  send        bridge-runner sync outputs/one  (or wandb sync)\n" in done.stdout
        running.fault = lambda what, sent: None
        known = environment(tmp_path / "home", running.url)
        later = execute(tmp_path, "runner", "sync", "outputs/one", environment=known)
        assert later.returncode == 0
        assert later.stdout.splitlines()[-1].startswith("9 of 9 W&B runs are at ")
        assert sorted(run.fields["jobType"] for run in running.runs.values()) == ["linear"] * 8 + ["sweep"]
        assert files_with_a_key(tmp_path) == []
        assert API_KEY not in done.stdout + done.stderr + later.stdout + later.stderr
