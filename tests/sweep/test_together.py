"""A sweep whose runs train together: each leaves what it leaves alone, and resume and rerun give its bits again."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from runner.commands import main
from runner.experiment.train import population
from runner.records import store
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import Record
from runner.sweep import blame, chunks
from runner.sweep.ending import Ending

LEAN = ("-m", "input_shape=[4]", "tracking=disabled", "timing=off", "checks=off", "train.steps=40")


def sweep(name: str, *overrides: str) -> dict[int, Record]:
    """The records of a sweep by seed."""
    assert main.main([*LEAN, f"sweep={name}", *overrides]) == 0
    return records(name)


def records(name: str) -> dict[int, Record]:
    found = [store.read_record(RunFolder(path)) for path in (Path("outputs") / name / "runs").iterdir()]
    return {int(record.settings["seed"]): record for record in found}


def bits(record: Record) -> tuple:
    assert record.train is not None
    assert record.train.state is not None
    return record.train.losses, [leaf.digest for leaf in record.variables], record.train.state.digest


def test_sweeps_train_together_by_default(here):
    together = sweep("some", "seed=0,1,2")
    assert [one.train.together.num for one in together.values()] == [16] * 3
    assert together[0].train.together.runs == [0, 1, 2]
    assert "train.together=16" in together[0].overrides
    for path in (here / "outputs/some/runs").glob("*/.hydra/config.yaml"):
        assert OmegaConf.load(path).train.together == "16"
    other = sweep("other", "seed=2,5")
    assert (bits(other[2]), other[2].run_id) == (bits(together[2]), together[2].run_id)
    assert main.main(["rerun", "outputs/some/1"]) == 0
    alone = sweep("alone", "seed=0,1", "train.together=off")
    assert alone[0].train.together is None
    assert alone[0].run_id != together[0].run_id
    np.testing.assert_allclose(alone[0].train.losses, together[0].train.losses, rtol=1e-4)


def test_learning_rates_share_a_program(here):
    sweep("rates", "seed=0", "train.learning_rate=0.01,0.1", "train.steps=2")
    plan = json.loads((here / "outputs/rates/sweep.json").read_text())
    assert len({run["program_id"] for run in plan["runs"]}) == 1
    assert len({run["run_id"] for run in plan["runs"]}) == 2


@pytest.mark.parametrize("words", [("seed=0",), ("seed=0,1", "timing=careful", "timing.rounds=2")])
def test_others_train_alone_by_default(here, words):
    found = sweep("alone", *words, "train.steps=2", "timing.min_sample_s=0", "timing.min_warmup_s=0")
    assert found[0].train.together is None


def test_stopped_members_resume_bit_for_bit(here, monkeypatch):
    whole = sweep("whole", "seed=0,1,2", "train.save_every=8")
    reached, asked = Ending.reached, itertools.count()
    with monkeypatch.context() as patch:
        # Ctrl-C after the second or third block of steps.
        patch.setattr(population, "FIRST_STEPS", 8)
        patch.setattr(Ending, "reached", lambda self: reached(self) or next(asked) > 6)
        main.main([*LEAN, "sweep=cut", "seed=0,1,2", "train.save_every=8"])
    steps = [sorted(path.iterdir(), key=lambda one: int(one.name)) for path in Path("outputs/cut").glob("runs/*/steps")]
    assert len(steps) == 3
    assert all(8 < int(one[-1].name) < 40 for one in steps)
    shutil.rmtree(steps[1][-1])  # this one goes on from an earlier step, apart
    assert main.main(["resume", "outputs/cut"]) == 0
    again = records("cut")
    assert {seed: bits(one) for seed, one in again.items()} == {seed: bits(one) for seed, one in whole.items()}
    assert len({tuple(one.train.resumed_at) for one in again.values()}) == 2
    assert sorted(len(one.train.together.runs) for one in again.values()) == [1, 2, 2]


def test_interrupted_sweeps_finish_what_is_trained(here, monkeypatch):
    trained = []
    original = chunks.trained_run.train_members
    monkeypatch.setattr(chunks.trained_run, "train_members", lambda *a, **k: trained.append(1) or original(*a, **k))
    reached = Ending.reached

    def interrupted(self):
        self.interrupted = self.interrupted or bool(trained)
        return reached(self)

    monkeypatch.setattr(Ending, "reached", interrupted)
    assert main.main([*LEAN, "sweep=cut", "seed=0,1,2", "train.together=2"]) == 130
    assert sorted(records("cut")) == [0, 1]


def test_deaths_in_training_suspect_all_of_it(tmp_path):
    folder = SweepFolder(tmp_path)
    events = [
        {"event": "start"},
        {"event": "begin", "run_id": "a"},
        {"event": "train", "run_ids": ["a", "b"]},
    ]
    assert blame._death(events, None, folder.journal).runs == {"a", "b"}
    events.append({"event": "trained", "run_ids": ["a", "b"]})
    assert blame._death(events, None, folder.journal).runs == {"a"}
