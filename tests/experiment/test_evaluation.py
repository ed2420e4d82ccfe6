"""The loss after training, on batches that are the same for every run."""

from __future__ import annotations

import numpy as np
import pytest

from runner.bridge.rngs import root_key, teacher_key
from runner.config.settings.layer import InputSettings
from runner.experiment import execute, inputs
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.job import Job
from runner.experiment.program import compile_program
from runner.experiment.train import evaluation
from runner.experiment.train.teacher import make_teacher
from runner.records import columns
from runner.records.codec import from_json, to_json

TRAINED = ("timing=off", "checks=off", "input_shape=[4,4]", "train=short", "train.steps=3", "train.eval_batches=2")


@pytest.fixture(scope="module")
def program(make_run):
    run = make_run(*TRAINED)
    return compile_program(make_draft(run, identity_of(run)))


@pytest.fixture(scope="module")
def executed(make_run, program):
    def execute_it(*overrides):
        run = make_run(*TRAINED, *overrides)
        return execute.execute(Job(run=run, identity=identity_of(run), compare_eager=False), program)

    return execute_it


def test_evaluation_is_the_mean_over_its_batches(executed, program):
    result = executed()
    teacher = make_teacher(program.training.training, program.init(teacher_key(1), np.ones((4, 4), "f")), 1)
    params, target = result.variables["params"], teacher["params"]
    losses = []
    for num in range(2):
        x = inputs.make_eval_batch(InputSettings(), [4, 4], num)
        difference = x @ (params["kernel"] - target["kernel"]) + params["bias"] - target["bias"]
        losses.append(np.mean(np.square(difference)))
    assert result.record.train.loss_eval == pytest.approx(np.mean(losses), rel=1e-5)
    assert columns.results_row(from_json(to_json(result.record)))["loss_eval"] == result.record.train.loss_eval


def test_better_weights_have_a_lower_loss(executed, program):
    few, many = (executed(f"train.steps={num}").record.train.loss_eval for num in (1, 60))
    assert many < 0.5 * few
    variables = program.init(root_key(0), np.ones((4, 4), "f"))
    batches = [inputs.make_eval_batch(InputSettings(), [4, 4], 0)]
    assert (
        evaluation.mean_loss(lambda given, x: program.apply(given, root_key(0), x)[0], *[variables] * 2, batches) == 0
    )


def test_evaluation_is_left_out_where_it_is_not_wanted(executed):
    assert executed("train.eval_batches=0").record.train.loss_eval is None


def test_evaluation_batches_are_the_same_for_all_seeds():
    one, same = (inputs.make_eval_batch(InputSettings(seed=seed), [4], 0) for seed in (0, 7))
    assert np.array_equal(one, same)
    others = [inputs.make_eval_batch(InputSettings(), [4], 1), inputs.make_batch(InputSettings(seed=0xE7A1), [4], 0)]
    assert [other for other in others if np.array_equal(one, other)] == []


def test_evaluation_makes_another_run(make_run):
    ids = {identity_of(make_run(*TRAINED, f"train.eval_batches={num}")).result_id for num in (0, 2, 3)}
    assert len(ids) == 3


def test_negative_batches_are_explained(make_run):
    with pytest.raises(Exception, match=r"train.eval_batches=-1: .*\n  Try: train.eval_batches=16"):
        make_run(*TRAINED, "train.eval_batches=-1")
