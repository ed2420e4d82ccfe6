"""What the journals of a sweep say of its runs, and when a run is written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil

import pytest
from told_reporter import Reporter

from runner.commands import main
from runner.config.composing.composed import Config
from runner.config.enums import Retry
from runner.config.settings.train import CheckpointSettings
from runner.records import find, store
from runner.records.disk import files
from runner.records.journal import Journal
from runner.records.paths import SweepFolder
from runner.sweep import execute, scheduler
from runner.sweep.ending import Ending
from runner.sweep.plan import make_plan
from runner.sweep.run_state import State, known_states
from runner.sweep.writing.retention import Keeper, without_checkpoint
from runner.sweep.writing.run_writer import RunWriter
from runner.tracking.pool import InlineTracking
from runner.tracking.processes import Processes
from runner.tracking.tracker import NullTracker


def test_a_run_done_again_is_tracked_again(folder):
    ids = [row.run_id for row in find.read_rows(folder)]
    ended = next(one for one in store.read_events(folder) if one["event"] == "done" and one["run_id"] == ids[0])
    with contextlib.closing(Journal(folder.journal)) as journal:
        for run_id in ids[:2]:
            journal.append("tracked", run_id=run_id)
        assert known_states(folder, ids).tracked == frozenset(ids[:2])
        journal.append("done", **{name: value for name, value in ended.items() if name != "event"})
    assert known_states(folder, ids).tracked == frozenset(ids[1:2])


def test_a_run_is_of_its_first_trial(folder):
    run_id = find.read_rows(folder)[0].run_id
    with contextlib.closing(Journal(folder.trials)) as journal:
        for number in (3, 1, 2):
            journal.append("trial", number=number, overrides=[], value=float(number), run_id=run_id, error=None)
    row = find.read_rows(folder)[0]
    assert (row.trial, row.objective) == (1, 1.0)


def test_a_run_done_again_counts_once(folder):
    runs = [folder.run(row.num, row.run_id) for row in find.read_rows(folder)]
    keeper = Keeper(CheckpointSettings(keep="last:2"))
    for run in (runs[0], runs[1], runs[1]):
        assert keeper.add(store.read_record(run), run) == []
    assert [one for _, one in keeper.add(store.read_record(runs[2]), runs[2])] == [runs[0]]


def test_records_say_it_before_checkpoints_go(folder, monkeypatch):
    runs = [folder.run(row.num, row.run_id) for row in find.read_rows(folder)]
    keeper = Keeper(CheckpointSettings(keep="last:1"))
    keeper.add(store.read_record(runs[0]), runs[0])
    flushed, fsync = set(), os.fsync

    def killed(*_, **__):
        assert str(runs[0].path.absolute()) in flushed
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: flushed.add(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            keeper.add(store.read_record(runs[1]), runs[1])
    left = store.read_record(runs[0])
    assert (left.checkpoint.removed, runs[0].checkpoint.exists()) == ("checkpoint.keep=last:1", True)
    assert Keeper(CheckpointSettings(keep="last:1")).add(left, runs[0]) == []
    assert not runs[0].checkpoint.exists()


@pytest.fixture
def writer(folder):
    with contextlib.closing(Journal(folder.journal)) as journal:
        yield RunWriter(
            journal=journal,
            reporter=Reporter(),
            tracking=InlineTracking(NullTracker()),
            ending=Ending(),
            processes=Processes(1),
        )


def planned(make_run, folder, *words):
    runs = [make_run("timing=off", "checks=off", f"seed={seed}", *words) for seed in range(3)]
    plan = make_plan([Config(run=run) for run in runs], lambda _: folder)
    assert [task.state for task in plan.tasks] == [State.done] * 3
    return plan


def test_runs_to_do_again_count_later(make_run, folder, writer):
    plan = planned(make_run, folder, "tracking=offline", "checkpoint.keep=last:2")
    assert writer.catch_up(plan, plan.tasks[:1]) == 2
    writer.keep(plan, plan.tasks[:1])
    assert writer.num_removed == 0
    assert writer.catch_up(plan, []) == 3
    writer.keep(plan, [])
    assert writer.num_removed == 1


def test_removals_that_no_journal_has_count(make_run, folder, writer):
    plan = planned(make_run, folder, "tracking=disabled", "checkpoint.keep=last:2")
    gone = plan.tasks[1].folder
    store.write_record(gone, without_checkpoint(store.read_record(gone), "checkpoint.keep=last:2"))
    assert [row.num for row in find.read_rows(folder) if row.checkpoint_bytes] == [0, 1, 2]
    writer.keep(plan, [])
    assert [row.num for row in find.read_rows(folder) if row.checkpoint_bytes] == [0, 2]
    assert writer.num_removed == 1


@pytest.mark.parametrize("in_job", [False, True])
def test_concurrent_jobs_flag_compile_times(make_run, tmp_path, in_job):
    run = make_run("timing=off", "checks=off", "tracking=disabled", "checkpoint=none")
    plan = make_plan([Config(run=run)], lambda _: SweepFolder(tmp_path / "s"))
    means = {"tracking": lambda **_: InlineTracking(NullTracker()), "reporter": Reporter()}
    if in_job:
        files.make_sweep_folder(plan.folder)
        with contextlib.closing(Journal(plan.folder.journal)) as journal:
            execute.work(plan, plan.tasks, journal, died={}, stop=lambda: False, **means)
    else:
        execute.execute(plan, **means)
    assert store.read_record(plan.tasks[0].folder).timing.apply.contended is in_job


UNDONE = {State.new, State.interrupted, State.damaged}
RETRIED = [(Retry.none, UNDONE), (Retry.failed, UNDONE | {State.failed}), (Retry.all, set(State) - {State.done})]


def test_retry_says_which_runs_are_to_do(make_run, tmp_path):
    plan = make_plan([Config(run=make_run())], lambda _: SweepFolder(tmp_path / "s"))
    tasks = [dataclasses.replace(plan.tasks[0], state=state) for state in State]
    for retry, wanted in RETRIED:
        assert {task.state for task in dataclasses.replace(plan, tasks=tasks, retry=retry).pending()} == wanted


EACH, TOGETHER = ["begin", "executed", "begin", "executed"], ["begin", "begin", "executed"]


@pytest.mark.parametrize(("long_s", "marks"), [(-1.0, EACH), (60.0, TOGETHER)])
def test_long_runs_are_written_at_once(long_s, marks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scheduler, "LONG_S", long_s)
    assert main.main(["-m", "seed=0,1", "sweep=s", "tracking=disabled", "timing.turns=false", "checks=off"]) == 0
    found = [event["event"] for event in store.read_events(SweepFolder(tmp_path / "outputs/s"))]
    assert [event for event in found if event in ("begin", "executed")] == marks
