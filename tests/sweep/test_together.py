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
from runner.config.composing.composed import Config
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.train import population
from runner.records import store
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import Record
from runner.sweep import blame, chunks, together
from runner.sweep.ending import Ending
from runner.sweep.plan import make_plan

LEAN = ("-m", "input_shape=[4]", "tracking=disabled", "timing=off", "checks=off", "train.steps=40")


def sweep(name: str, *overrides: str) -> dict[int, Record]:
    """The records of a sweep by seed."""
    assert main.main([*LEAN, f"sweep={name}", *overrides]) == 0
    return records(name)


def records(name: str) -> dict[int, Record]:
    return {int(record.settings["seed"]): record for record in all_records(name)}


def all_records(name: str) -> list[Record]:
    return [store.read_record(RunFolder(path)) for path in (Path("outputs") / name / "runs").iterdir()]


def bits(record: Record) -> tuple:
    assert record.train is not None
    assert record.train.state is not None
    return record.train.losses, [leaf.digest for leaf in record.variables], record.train.state.digest


def test_sweeps_train_together_by_default(here):
    found = sweep("some", "seed=0,1,2")
    assert [one.train.together.num for one in found.values()] == [16] * 3
    assert found[0].train.together.runs == [0, 1, 2]
    assert "train.together=16" in found[0].overrides
    for path in (here / "outputs/some/runs").glob("*/.hydra/config.yaml"):
        assert OmegaConf.load(path).train.together == "16"
    other = sweep("other", "seed=2,5")
    assert (bits(other[2]), other[2].run_id) == (bits(found[2]), found[2].run_id)
    assert main.main(["rerun", "outputs/some/1"]) == 0
    alone = sweep("alone", "seed=0,1", "train.together=off")
    assert alone[0].train.together is None
    assert alone[0].run_id != found[0].run_id
    np.testing.assert_allclose(alone[0].train.losses, found[0].train.losses, rtol=1e-4)


def test_learning_rates_share_a_program(here):
    sweep("rates", "seed=0", "train.learning_rate=0.01,0.1", "train.steps=2")
    plan = json.loads((here / "outputs/rates/sweep.json").read_text())
    assert len({run["program_id"] for run in plan["runs"]}) == 1
    assert len({run["run_id"] for run in plan["runs"]}) == 2


def test_an_optimiser_that_keeps_its_rate_gets_each_run_its_own(here):
    words = ("-m", *LEAN[1:], "train.optimizer=rprop", "train.together=16", "train.steps=4")
    assert main.main([*words, "train.learning_rate=0.01,0.1", "sweep=rates"]) == 0
    found = {record.settings["train"]["learning_rate"]: record for record in all_records("rates")}
    for rate, record in found.items():
        assert main.main([*words, f"train.learning_rate={rate}", f"sweep=of{rate}"]) == 0
        (own,) = all_records(f"of{rate}")
        assert (own.run_id, bits(own)) == (record.run_id, bits(record))
    assert found[0.01].train.losses[-1] != found[0.1].train.losses[-1]


def planned(make_run, seeds, *words):
    return [Config(run=make_run("input_shape=[4]", "train.steps=2", f"seed={seed}", *words)) for seed in seeds]


@pytest.mark.parametrize(
    ("seeds", "words", "number"),
    [
        ((0, 1), (), "16"),
        ((0, 1), ("timing=quick",), "16"),
        ((0,), (), "auto"),
        ((0, 1), ("timing=careful",), "auto"),
        ((0, 1), ("mesh.axes={data:1}",), "auto"),
        ((0, 1), ("train.steps=0",), "auto"),
        ((0, 1), ("train.together=off",), "off"),
        ((0, 1), ("train.together=2",), "2"),
        ((0, 1), ("features=1000000",), "auto"),  # more than 64 MiB of all of them
    ],
)
def test_how_many_train_together_by_default(make_run, seeds, words, number):
    found, _ = together.resolved(planned(make_run, seeds, *words))
    assert [config.run.train.together for config in found] == [number] * len(seeds)


def test_all_that_trains_together_is_counted(make_run):
    (config,) = planned(make_run, (0,), "train.together=8", "features=100")
    traced = make_draft(config.run, identity_of(config.run))
    assert (traced.variables_bytes, traced.output_bytes) == (2000, 400)
    # Of each run its weights, those of its teacher, what Adam keeps of each weight, and x and y.
    assert together._num_bytes(traced) - 8 * (2000 + 2000 + 400 + 16) == 8 * traced.optimizer_bytes >= 8 * 4000


def test_groups_are_alike_and_no_larger(make_run, tmp_path):
    words = [(4, "train.together=3"), (2, "train.together=3", "train.steps=3"), (2, "train.together=off")]
    configs = [config for num, *more in words for config in planned(make_run, range(num), *more)]
    tasks = make_plan(configs, lambda _: SweepFolder(tmp_path / "s")).pending()

    def groups(*, apart):
        found = chunks.Chunks(lambda event, ids: None)
        found.arrange(tasks, apart=apart)
        return sorted({tuple(task.job.num for task in chunk) for chunk in found._chunks.values()})

    assert groups(apart=False) == [(0, 1, 2), (3,), (4, 5)]
    assert groups(apart=True) == [(num,) for num in range(6)]


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
