"""What the journals of a sweep say of its runs, and when a run is written."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from runner.commands import main
from runner.config.composing.composed import Config
from runner.config.enums import Retry
from runner.config.settings.train import CheckpointSettings
from runner.records import find, store
from runner.records.journal import Journal
from runner.records.paths import SweepFolder
from runner.sweep import scheduler
from runner.sweep.plan import make_plan
from runner.sweep.run_state import State, known_states
from runner.sweep.writing.retention import Keeper


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
