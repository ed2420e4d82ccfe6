"""Sweeps that other processes work on: jobs cut from a plan, journals read together, runs that belong to one job."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from failing_layers import LAYERS
from recorded_bits import bits
from started_processes import Started

from runner import errors
from runner.commands import main
from runner.config.composing.composed import Config
from runner.launch import queue, worker
from runner.launch.jobs import Crew, cut, plan_of, read, remaining, submit
from runner.records import find, journal, store
from runner.records.disk import files, locks
from runner.records.journal import Journal
from runner.records.paths import SubmissionFolder, SweepFolder
from runner.sweep.plan import make_plan
from runner.sweep.run_state import State

LEAN = ("tracking=disabled", "timing=off", "checks=off")
SWEEP = ("-m", "seed=0,1,2", "features=4,8", "sweep=mine", *LEAN)

HOLD = """
import sys, time
from pathlib import Path
from runner.records.disk import locks
with locks.parts(Path(sys.argv[1]), [int(text) for text in sys.argv[2:]]) as taken:
    print(taken, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_layers.py").write_text(LAYERS)
    sys.modules.pop("my_layers", None)
    return tmp_path


def in_jobs(*words: str) -> int:
    """Hydra's own launcher runs the jobs one after the other in this process: the least that an engine can be."""
    return main.main([*words, "hydra/launcher=basic"])


def hydra_files(folder: SweepFolder, name: str) -> dict[str, str]:
    return {path.parent.parent.name: path.read_text() for path in folder.path.glob(f"runs/*/.hydra/{name}")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(folder):
        assert in_jobs(*SWEEP) == 0
    return folder / "outputs"


@pytest.fixture
def done(finished, here):
    """A sweep that was done in two jobs."""
    shutil.copytree(finished, here / "outputs")
    return SweepFolder(here / "outputs" / "mine")


@contextlib.contextmanager
def holding(lock: Path, *numbers: int) -> Iterator[Started[str]]:
    """A process that has the runs of these numbers meanwhile."""
    words = [sys.executable, "-c", HOLD, str(lock), *map(str, numbers)]
    with Started(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == f"{list(numbers)}\n"
        yield process


def tasks(*counts: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(program_key=key, seed=seed) for key, count in enumerate(counts) for seed in range(count)]


@pytest.mark.parametrize(
    ("counts", "crew", "sizes"),
    [
        ((3, 3), {"num_workers": 1, "process_per_job": False}, [3, 3]),
        ((3, 3), {"num_workers": 1}, [6]),
        ((3, 3), {"num_workers": 8}, [3, 3]),
        ((3, 3), {"num_workers": 4, "exact": True}, [2, 1, 2, 1]),
        ((64,), {"num_workers": 3}, [16, 16, 32]),
        ((2,), {"num_workers": 5, "exact": True}, [1, 1]),
        ((4, 1, 1, 2), {"num_workers": 2}, [4, 4]),
        ((1,) * 10, {"num_workers": 2, "process_per_job": False}, [2, 2, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_programs_split_only_for_idle_workers(counts, crew, sizes):
    jobs = cut(tasks(*counts), Crew(engine="x", choice="hydra/launcher=x", **crew))
    assert [len(job) for job in jobs] == sizes
    assert sorted((one.program_key, one.seed) for job in jobs for one in job) == [
        (one.program_key, one.seed) for one in tasks(*counts)
    ]


def test_journals_merge_in_attempt_order():
    own = [{"event": "start", "at": 9}, {"event": "start", "after": 2, "at": 1}, {"event": "done", "at": 0}]
    submitted = {2: [{"event": "failed", "at": 99}], 1: [{"event": "done", "at": 50}]}
    assert [event["at"] for event in journal.in_order(own, submitted)] == [9, 50, 99, 1, 0]


def test_run_locks_end_with_their_process(tmp_path):
    with holding(tmp_path / ".lock", 1, 3) as process:
        with locks.parts(tmp_path / ".lock", range(5)) as taken:
            assert taken == [0, 2, 4]
        with locks.whole(tmp_path / ".lock") as whole:
            assert not whole
        process.kill()
    with locks.parts(tmp_path / ".lock", range(5)) as taken:
        assert taken == [0, 1, 2, 3, 4]


def test_missing_file_locks_are_reported(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.raises(errors.StorageError) as raised, locks.whole(tmp_path / ".lock"):
        pass
    assert str(raised.value) == (
        f"{tmp_path / '.lock'}: this file system keeps no locks (No locks available).\n"
        "  Try: output_root=FOLDER on a file system that does (NFS 4, Lustre mounted with flock)"
    )


def test_journals_are_held_by_their_process(tmp_path):
    path = tmp_path / "0.jsonl"
    assert not journal.is_held(path)
    lines = Journal(path)
    assert journal.is_held(path)
    lines.close()
    assert not journal.is_held(path)


@pytest.mark.slow
def test_job_sweeps_equal_single_process_sweeps(done, here, capsys):
    assert main.main([*SWEEP, "output_root=alone"]) == 0
    shared, alone = done, SweepFolder(here / "alone" / "mine")
    assert bits(shared) == bits(alone)
    assert shared.results.exists()
    typed = {
        name: text.replace("- output_root=alone\n", "") for name, text in hydra_files(alone, "overrides.yaml").items()
    }
    assert hydra_files(shared, "overrides.yaml") == typed
    assert len(hydra_files(shared, "hydra.yaml")) == len(hydra_files(shared, "config.yaml")) == 6
    rows = [[(row.label, row.status) for row in find.read_rows(folder)] for folder in (shared, alone)]
    assert rows[0] == rows[1]
    capsys.readouterr()
    assert in_jobs(*SWEEP) == 0
    assert "6 done · 0 to do" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_held_by_others_are_skipped(done, capsys):
    folder = done
    for path in folder.jobs.glob("*/*.jsonl"):
        path.unlink()
    shutil.rmtree(folder.path / "runs")  # whole runs that no journal has are kept
    with holding(folder.lock, 0, 1):
        assert in_jobs(*SWEEP) == 1
    captured = capsys.readouterr()
    assert "runs that another process has by now, left to it: 1" in captured.err
    assert "another process works on this sweep: its results come at its end" in captured.err
    assert "4 of 6 runs done, 2 missing" in captured.out
    assert main.main(["resume", str(folder.path), "--trust"]) == 0
    assert [row.status for row in find.read_rows(folder)] == ["done"] * 6


def test_jobs_skip_runs_finished_since_planning(done):
    folder = done
    first = folder.submission(1)
    again = folder.submission(2)
    again.path.mkdir()
    again.about.write_bytes(first.about.read_bytes())  # planned when nothing was done
    again.job(0).write_bytes(first.job(0).read_bytes())
    plan = SimpleNamespace(folder=folder, tasks=[run_task(run) for run in read(again, 0).runs])
    assert remaining(plan, again, 0) == []
    store.write_data(again.about, queue.read(again, again.about) | {"seen": store.journal_sizes(folder)})
    assert len(remaining(plan, again, 0)) == 3


def test_a_job_gets_its_own_deaths(make_run, tmp_path):
    runs = [make_run(*LEAN, f"seed={seed}") for seed in range(2)]
    plan = make_plan([Config(run=run) for run in runs], lambda _: SweepFolder(tmp_path / "s"))
    files.make_sweep_folder(plan.folder)
    first, second = (task.job.identity.run_id for task in plan.tasks)
    crew = Crew(engine="basic", choice="hydra/launcher=basic", num_workers=2)
    submission = submit(plan, [[task] for task in plan.tasks], crew, {second: "it crashed", "other": "it was killed"})
    assert [[run["run_id"] for run in read(submission, num).runs] for num in range(2)] == [[first], [second]]
    assert [read(submission, num).died for num in range(2)] == [{}, {second: "it crashed"}]


def run_task(run):
    identity = SimpleNamespace(run_id=run["run_id"])
    return SimpleNamespace(job=SimpleNamespace(identity=identity), state=State.failed)


@pytest.mark.slow
def test_failing_job_runs_are_retried_later(here, capsys):
    words = ["-m", "layer=custom", "layer.target=my_layers.Fails", "layer.kwargs.when=broken,whole", *LEAN]
    (here / "broken").touch()
    assert in_jobs(*words) == 1
    captured = capsys.readouterr()
    assert "1 of 2 runs done, 1 failed" in captured.out
    assert "run 0 failed: other: RuntimeError: the cable is out  (" in captured.err
    (here / "broken").unlink()
    assert in_jobs(*words) == 0
    assert "1 done, 1 failed · 1 to do" in capsys.readouterr().out


def test_mismatching_job_runs_are_refused(done):
    folder = done
    first = folder.submission(1)
    data = queue.read(first, first.job(0))
    data["runs"][0]["settings"]["seed"] = 5
    store.write_data(first.job(0), data)
    with pytest.raises(errors.UserError) as raised:
        plan_of(folder, read(folder.submission(1), 0), lambda overrides: lambda num: {})
    assert str(raised.value) == (
        f"run 0 of {folder.path} is another run on this machine: its layer's source, its input or its device is not "
        "what it was where the sweep was planned.\n  Try: the same files on every machine, then the same sweep again"
    )


def test_changed_job_files_are_refused(done, capsys):
    first = done.submission(1)
    shown = tuple(find.read_rows(done))
    for path, before, after in ((first.job(0), b'"state": "new"', b'"state": "neW"'), (first.about, b": 2,", b": 1,")):
        text = path.read_bytes()
        assert before in text
        path.write_bytes(text.replace(before, after, 1))
        with pytest.raises(errors.StorageError) as raised:
            queue.read(first, path)
        assert str(raised.value) == (
            f"{path} is damaged: it is not what was written, by its digest.\n"
            f"  Try: rm {first.about}, then the same sweep again"
        )
    assert tuple(find.read_rows(done)) == shown  # neither shows anything
    assert main.main(["resume", str(done.path), "--trust"]) == 2
    assert "1/submission.json is damaged: it is not what was written" in capsys.readouterr().err
    first.about.unlink()
    assert main.main(["resume", str(done.path), "--trust"]) == 0
    assert "6 of 6 runs done" in capsys.readouterr().out


def test_jobs_live_with_launcher_or_process(done):
    submission = done.submission(1)
    assert queue.living_jobs(submission) == []
    first = submission.journal(0)
    first.write_bytes(first.read_bytes().rpartition(b'{"event":"end"')[0])
    assert queue.living_jobs(submission) == []
    lines = Journal(first)
    assert queue.living_jobs(submission) == [0]
    lines.close()
    lines = Journal(submission.launcher)
    assert queue.living_jobs(submission) == [0]
    assert queue.run_nums(submission, [0]) == {0, 2, 4}
    lines.close()


def test_sweeps_end_with_their_last_worker(done):
    assert queue.is_over(done)
    done.journal.unlink()
    assert queue.is_over(done)
    lines = Journal(done.submission(1).launcher)
    assert not queue.is_over(done)
    lines.close()


@pytest.mark.slow
def test_jobs_track_runs_launchers_track_sweeps(here):
    assert in_jobs("-m", "seed=0,1", "timing=off", "checks=off", "sweep=mine") == 0
    folders = [path.name for path in (here / "outputs" / "mine" / "wandb").glob("offline-run-*")]
    assert len(folders) == 3
    assert sum(name.endswith("mine-sweep") for name in folders) == 1


@pytest.mark.slow
def test_remote_sweeps_need_no_local_device(here, capsys):
    words = ["plan", "device=gpu,auto", "hydra/launcher=ray", *LEAN]
    assert main.main([*words, "hydra.launcher.num_gpus=1"]) == 0
    assert "1 run · 2 programs · 1 equal configs left out" in capsys.readouterr().out
    assert main.main(words) == 0
    assert "2 runs · 2 programs" in capsys.readouterr().out


@pytest.mark.slow
def test_running_jobs_are_not_submitted_again(done):
    folder = done
    path = folder.submission(1).journal(0)
    whole = path.read_bytes()
    path.write_bytes(b"")
    words = [sys.executable, "-c", "import sys; from runner.commands import main; sys.exit(main.main(sys.argv[1:]))"]
    lines = Journal(path)
    with Started([*words, *SWEEP, "hydra/launcher=basic"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == "runs whose jobs are queued or running, waited for: 3\n"
        path.write_bytes(whole)
        lines.close()
        assert process.wait(timeout=60) == 0
    assert list(folder.submissions()) == [1]


def test_missing_launcher_plugins_suggest_an_install(here, capsys, monkeypatch):
    from hydra.core.plugins import Plugins

    known = Plugins.instance().class_name_to_class
    there = {name: plugin for name, plugin in known.items() if "joblib" not in name}
    monkeypatch.setattr(Plugins.instance(), "class_name_to_class", there)
    assert main.main([*SWEEP, "hydra/launcher=joblib"]) == 2
    assert capsys.readouterr().err == (
        "error: hydra/launcher=joblib: hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher is not "
        "installed.\n  Try: pip install 'bridge-runner[joblib]'\n"
    )


def test_a_fifo_for_a_journal_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "0.jsonl")
    with pytest.raises(OSError, match="it is a FIFO, and no file"):
        queue.has_ended(tmp_path / "0.jsonl")


def test_a_requeued_job_names_whom_it_waits_for(tmp_path, capsys):
    submission, said = SubmissionFolder(tmp_path), ""
    first = Journal(submission.journal(2))
    first.append("arrived", host="node7", pid=4711)
    second = threading.Thread(target=lambda: worker._journal(submission, 2).close())
    second.start()
    while not said and second.is_alive():
        said = capsys.readouterr().err
        time.sleep(0.01)
    assert said == "waiting for an earlier attempt of job 2, pid 4711 on node7, to end\n"
    first.close()
    second.join(timeout=20)
    assert not second.is_alive() and capsys.readouterr().err == ""
