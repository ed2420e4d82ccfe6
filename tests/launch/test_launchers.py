"""Sweeps on real engines of this machine: what is killed comes back, and the bits are those of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import slurm_cluster
from failing_layers import LAYERS
from recorded_bits import bits
from started_processes import Started

from runner.launch import queue
from runner.records import find
from runner.records.paths import SweepFolder

pytestmark = pytest.mark.engines

# Two programs of six seeds each: one waits as long as the file `one` says so, the other for `two`.
SWEEP = ("-m", "seed=range(0,6)", "layer=custom", "layer.target=my_layers.Waits", "layer.kwargs.until=one,two")
LEAN = ("tracking=disabled", "timing=off", "checks=off", "sweep=mine")
COMMAND = (sys.executable, "-c", "import sys; from runner.commands import main; sys.exit(main.main(sys.argv[1:]))")
TIMEOUT_S = 300
# One worker has a Slurm, and one a Ray: `--dist loadgroup`.
ON_SLURM, ON_RAY = pytest.mark.xdist_group("slurm"), pytest.mark.xdist_group("ray")
SLURM = ("hydra/launcher=submitit_slurm", "process.workers=2")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_layers.py").write_text(LAYERS)
    gates(one="go", two="go")
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "my_layers.py").write_text(LAYERS)
    for name in ("one", "two"):
        (folder / name).write_text("go")
    subprocess.run([*COMMAND, *SWEEP, *LEAN], cwd=folder, check=True, capture_output=True, timeout=TIMEOUT_S)
    return bits(SweepFolder(folder / "outputs" / "mine"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    if missing := slurm_cluster.missing():
        pytest.skip(f"no {', '.join(missing)}: {slurm_cluster.PACKAGES}")
    with slurm_cluster.slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def slurm(cluster, here, monkeypatch) -> Iterator[dict[str, str]]:
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    yield cluster
    subprocess.run(["scancel", "--user=root"], check=True)


def gates(**texts: str) -> None:
    for name, text in texts.items():
        Path(name).with_suffix(".new").write_text(text)
        os.replace(Path(name).with_suffix(".new"), name)


def start(*words: str) -> Started[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return Started([*COMMAND, *words], **pipes, text=True, start_new_session=True)


def end(process: Started[str], code: int) -> str:
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code, out + err
    return out + err


def sweep() -> SweepFolder:
    return SweepFolder(Path("outputs") / "mine")


def wait_for(what, seconds: float = TIMEOUT_S):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def events(kind: str, number: int = 1) -> dict[int, dict[str, object]]:
    """The last event of a kind in the journal of each job of a submission."""
    found = {}
    for path in sweep().submission(number).path.glob("[0-9]*.jsonl"):
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        found |= {int(path.stem): line for line in lines if line["event"] == kind}
    return found


def statuses() -> list[str]:
    return [row.status for row in find.read_rows(sweep())]


def listening(roots: list[psutil.Process]) -> set[str]:
    """Addresses that processes below `roots` listen on."""
    pids = {process.pid for root in roots for process in [root, *root.children(recursive=True)]}
    found = psutil.net_connections(kind="tcp")
    listed = [one.laddr.ip for one in found if one.pid in pids and one.status == psutil.CONN_LISTEN]
    return {address.removeprefix("::ffff:") for address in listed}  # as IPv6 spells an address of IPv4


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_killed_joblib_workers_are_resumable(here, undisturbed):
    gates(one="wait")
    process = start(*SWEEP, *LEAN, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    wait_for(lambda: set(events("begin")) == {0, 1} and set(events("end")) == {1})
    os.kill(events("arrived")[0]["pid"], signal.SIGKILL)
    said = end(process, 1)
    assert "hydra/launcher=joblib: TerminatedWorkerError: " in said
    assert "ended before their time: jobs 0 of outputs/mine/jobs/1" in said
    assert "6 of 12 runs done, 6 missing" in said
    gates(one="go")
    assert "12 of 12 runs done" in end(start("resume", "outputs/mine", "--trust"), 0)
    assert bits(sweep()) == undisturbed


def test_joblib_workers_end_with_their_sweep(here, undisturbed):
    gates(one="wait")
    process = start(*SWEEP, *LEAN, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    wait_for(lambda: set(events("begin")) == {0, 1} and set(events("end")) == {1})
    left = psutil.Process(process.pid).children(recursive=True)
    assert {event["pid"] for event in events("arrived").values()} <= {one.pid for one in left}
    process.kill()  # one worker is within a run that never returns, the other waits for work
    wait_for(lambda: all(map(has_ended, left)), seconds=20)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert err == "", "no traceback, and no word of the resource tracker"
    gates(one="go")
    assert "12 of 12 runs done" in end(start("resume", "outputs/mine", "--trust"), 0)
    assert bits(sweep()) == undisturbed


def test_killed_joblib_searches_resume_identically(here):
    space = ("seed=int(interval(0,1000))", "layer=custom", "layer.target=my_layers.Waits", "layer.kwargs.until=one")
    search = (
        "-m",
        "hydra/sweeper=optuna",
        "search.objective=output_norm",
        *space,
        "search.n_trials=6",
        "search.n_jobs=2",
    )
    end(start(*search, *LEAN, "output_root=alone"), 0)
    gates(one="wait")
    process = start(*search, *LEAN, "hydra/launcher=joblib", "process.workers=2")
    wait_for(lambda: set(events("begin")) == {0, 1})
    os.kill(events("arrived")[0]["pid"], signal.SIGKILL)
    said = end(process, 1)
    assert "0 of 2 runs done, 2 missing" in said
    assert "trials      0 of 6 told, 0 runs" in said
    gates(one="go")
    assert "trials      6 of 6 told, 6 runs" in end(start("resume", "outputs/mine", "--trust"), 0)
    assert find.read_trials(sweep()) == find.read_trials(SweepFolder(Path("alone", "mine")))


def test_ctrl_c_finishes_current_runs_first(here, undisturbed):
    gates(one="wait", two="wait")
    process = start(*SWEEP, *LEAN, "hydra/launcher=submitit_local", "process.workers=2")
    wait_for(lambda: set(events("begin")) == {0, 1})
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all of them
    wait_for(lambda: sweep().submission(1).stop.exists())
    gates(one="go", two="go")
    said = end(process, 130)
    assert "stopping after the current run; Ctrl-C again stops now" in said
    assert "2 of 12 runs done; stopped by you" in said
    end(start("resume", "outputs/mine", "--trust"), 0)
    assert bits(sweep()) == undisturbed


def test_local_jobs_outlive_their_launcher(here, undisturbed):
    gates(one="wait")
    process = start(*SWEEP, *LEAN, "hydra/launcher=submitit_local", "process.workers=2")
    wait_for(lambda: set(events("begin")) == {0, 1} and set(events("end")) == {1})
    with process:  # the jobs have its pipes: it is not waited for their end
        process.kill()
    again = start("resume", "outputs/mine", "--trust")
    assert again.stderr.readline() == "runs whose jobs are queued or running, waited for: 6\n"
    gates(one="go")
    assert "12 of 12 runs done" in end(again, 0)
    assert list(sweep().submissions()) == [1]
    assert bits(sweep()) == undisturbed


@ON_SLURM
def test_killed_slurm_jobs_are_reported(slurm, undisturbed):
    gates(one="wait")
    process = start(*SWEEP, *LEAN, *SLURM)
    wait_for(lambda: set(events("begin")) == {0, 1} and set(events("end")) == {1})
    daemons = psutil.Process().children()
    assert listening([*daemons, psutil.Process(process.pid)]) == {"127.0.0.1"}
    os.kill(events("arrived")[0]["pid"], signal.SIGKILL)
    said = end(process, 1)
    assert "hydra/launcher=submitit_slurm: " in said
    assert "ended before their time: jobs 0 of outputs/mine/jobs/1" in said
    gates(one="go")
    assert "6 done, 6 new · 6 to do" in end(start("resume", "outputs/mine", "--trust"), 0)
    assert bits(sweep()) == undisturbed


@ON_SLURM
def test_slurm_jobs_outlive_their_launcher(slurm, undisturbed):
    gates(one="wait", two="wait")
    # One at a time: the other is still queued.
    process = start(*SWEEP, *LEAN, *SLURM, "hydra.launcher.array_parallelism=1")
    wait_for(lambda: events("begin"))
    process.kill()
    process.communicate()
    assert queue.unfinished(sweep()) == {1: [0, 1]}
    again = start("resume", "outputs/mine", "--trust")
    assert again.stderr.readline() == "runs whose jobs are queued or running, waited for: 12\n"
    gates(one="go", two="go")
    assert "12 of 12 runs done" in end(again, 0)
    assert list(sweep().submissions()) == [1]
    assert bits(sweep()) == undisturbed


@ON_SLURM
def test_preempted_slurm_jobs_are_requeued(slurm, undisturbed):
    gates(one="wait")
    process = start(*SWEEP, *LEAN, *SLURM)
    wait_for(lambda: set(events("begin")) == {0, 1})
    first = events("arrived")[0]["pid"]
    os.kill(first, signal.SIGUSR2)
    gates(one="go")
    assert "12 of 12 runs done" in end(process, 0)
    assert events("arrived")[0]["pid"] != first
    assert bits(sweep()) == undisturbed


@ON_SLURM
def test_sigterm_cancels_queued_slurm_jobs(slurm):
    gates(one="wait", two="wait")
    process = start(*SWEEP, *LEAN, *SLURM, "hydra.launcher.array_parallelism=1")
    wait_for(lambda: events("begin"))
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: sweep().submission(1).stop.exists())
    gates(one="go", two="go")
    assert "1 of 12 runs done; stopped by you" in end(process, 130)
    assert events("arrived").keys() == {0}
    states = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert states.stdout == ""


def test_unreachable_slurm_or_ray_is_reported(here, monkeypatch):
    (here / "slurm.conf").touch()
    monkeypatch.setenv("SLURM_CONF", str(here / "slurm.conf"))
    said = end(start(*SWEEP, *LEAN, *SLURM), 2)
    assert "error: hydra/launcher=submitit_slurm: " in said
    (port,) = slurm_cluster.free_ports(1)
    said = end(start(*SWEEP, *LEAN, "hydra/launcher=ray", f"hydra.launcher.address=127.0.0.1:{port}"), 2)
    assert said.startswith(f"error: hydra.launcher.address=127.0.0.1:{port}: nothing answers there (")
    assert said.endswith("  Try: hydra.launcher.address=null, for processes of this machine\n")


@pytest.fixture
def ray_cluster(here, monkeypatch):
    pytest.importorskip("runner.launch.ray")
    for name, value in {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    utils = pytest.importorskip("ray.cluster_utils", reason="pip install 'bridge-runner[ray]'")
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = utils.Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    cluster.second = cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


# Ray's own processes are forked from this one, and replaced at once.
@ON_RAY
@pytest.mark.filterwarnings("ignore:os\\.fork\\(\\) was called:RuntimeWarning")
def test_ray_reruns_jobs_of_killed_nodes(ray_cluster, undisturbed):
    gates(one="wait", two="wait")
    process = start(*SWEEP, *LEAN, "hydra/launcher=ray", f"hydra.launcher.address={ray_cluster.address}")
    wait_for(lambda: set(events("begin")) == {0, 1})
    assert listening([psutil.Process()]) == {"127.0.0.1"}
    workers = [psutil.Process(int(str(event["pid"]))) for event in events("arrived").values()]
    ray_cluster.remove_node(ray_cluster.second, allow_graceful=False)
    # A node's processes outlive it by a moment, and could do all that is left of their job in it.
    wait_for(lambda: any(map(has_ended, workers)))
    gates(one="go", two="go")
    said = end(process, 0)
    assert "was lost and is done again: Task failed because the node it was running on is dead or unavailable" in said
    assert list(sweep().submissions()) == [1, 2]
    assert bits(sweep()) == undisturbed


@ON_RAY
def test_crashing_ray_runs_fail_alone(here, undisturbed):
    gates(one="wait", two="go")
    process = start(*SWEEP, *LEAN, "hydra/launcher=ray", "failure.retry=failed")
    wait_for(lambda: set(events("begin")) == {0, 1})
    started = [psutil.Process(process.pid)]
    assert listening(started) == {"127.0.0.1"}
    gates(one="die")
    wait_for(lambda: events("begin", 2))
    gates(one="go")
    said = end(process, 1)
    assert "run 0 failed: died: its process died: a crash in native code, or a kill" in said
    assert statuses().count("failed") in (1, 2)  # the second try may have begun before the file said `go`
    assert "left out, since they killed their process before" in end(start("resume", "outputs/mine", "--trust"), 1)
    end(start("resume", "outputs/mine", "--trust", "failure.retry=all"), 0)
    runs = {name: found for name, found in bits(sweep()).items() if ".old-" not in name}
    assert runs == undisturbed
