"""Training steps: what is learnt, carried, drawn again and left alone; going on bit for bit; the twin's loss curve."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from wandb_reader import read_offline_run

from runner.arrays import trees
from runner.bridge import hosts, twins
from runner.bridge.rngs import root_key, teacher_key
from runner.commands import main
from runner.commands.printed import run_lines
from runner.config.enums import InputKind
from runner.config.settings.layer import InputSettings
from runner.errors import ConfigError, LayerError
from runner.experiment import execute as experiment_execute
from runner.experiment import inputs, job
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.job import Job
from runner.experiment.program import compile_program, compile_training
from runner.experiment.train import optimizers, teacher, training
from runner.experiment.train.training import WATCH_EVERY_NS
from runner.records import columns, store
from runner.records.codec import from_json, to_data, to_json
from runner.records.paths import RunFolder
from runner.sweep.initial_variables import InitialVariables

HERE = __name__
QUICK = ("timing=off", "checks.eager=never", "input_shape=[4,4]")


class Counts(nnx.Module):
    """Gives integers only."""

    def __init__(self, *, rngs):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x):
        return (x > self.scale[...]).sum()


class Whole(nnx.Module):
    """Has a param that is no floating number."""

    def __init__(self, *, rngs):
        self.offset = nnx.Param(jnp.ones((), jnp.int32))

    def __call__(self, x):
        return x + self.offset[...]


class Sows(nnx.Module):
    """Keeps what it saw, one value more at each call."""

    def __init__(self, *, rngs):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x):
        self.sow(nnx.Intermediate, "seen", x)
        return x * self.scale[...]


@pytest.fixture(scope="module")
def execute(make_run):
    """The result of one run of these overrides; equal ones run once."""
    known = {}

    def run_it(*overrides):
        if overrides not in known:
            run = make_run(*QUICK, *overrides)
            program = compile_program(make_draft(run, identity_of(run)))
            known[overrides] = experiment_execute.execute(
                Job(run=run, identity=identity_of(run), compare_eager=False), program
            )
        return known[overrides]

    return run_it


class Watching:
    """Who looks on, and what it was told."""

    def __init__(self):
        self.told = []

    def tell(self, first_step, losses):
        self.told.append((first_step, losses))

    def end(self):
        self.told.append("end")


def losses_of(result):
    assert result.record.error is None
    return result.record.train.losses


def record_of(here, sweep):
    (path,) = (here / "outputs" / sweep / "runs").iterdir()
    return store.read_record(RunFolder(path))


# What is learnt.


@pytest.mark.slow
def test_training_lowers_the_loss(execute):
    result, untrained = execute("train=short"), execute()
    losses = losses_of(result)
    assert len(losses) == 20
    assert losses[-1] < 0.8 * losses[0]
    assert not np.array_equal(result.variables["params"]["kernel"], untrained.variables["params"]["kernel"])
    x = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    params = result.variables["params"]
    np.testing.assert_allclose(result.output[""], x @ params["kernel"] + params["bias"], rtol=1e-5, atol=1e-6)


def test_one_step_equals_plain_optax(execute):
    result = execute("train.steps=1", "train.optimizer=sgd", "train.learning_rate=0.5")
    model = nn.Dense(8)
    layer = execute().variables["params"]
    run_x = inputs.make_batch(InputSettings(), [4, 4], 0)
    key = teacher_key(1)
    named = nnx.bridge.to_linen(nnx.Linear, 4, 8).init(key, run_x)
    # The bias would be zero, as the student's.
    named["params"]["bias"] += 0.1 * np.random.default_rng(1).standard_normal(8).astype(np.float32)

    def loss_of(params):
        return jnp.mean((model.apply({"params": params}, run_x) - model.apply(named, run_x)) ** 2)

    loss, gradients = jax.value_and_grad(loss_of)(layer)
    np.testing.assert_allclose(losses_of(result), [loss], rtol=1e-5)
    expected = layer["kernel"] - 0.5 * gradients["kernel"]
    np.testing.assert_allclose(result.variables["params"]["kernel"], expected, rtol=1e-5, atol=1e-6)


def test_runs_never_teach_themselves(execute):
    assert losses_of(execute("train.steps=1", "seed=1", "train.teacher_seed=1"))[0] > 0


def test_loss_averages_floating_elements_only():
    output = {"a": jnp.array([3.0]), "b": jnp.zeros(3), "n": jnp.array([5])}
    target = {"a": jnp.array([1.0]), "b": jnp.zeros(3), "n": jnp.array([0])}
    assert training.mean_squared_difference(output, target) == 1.0


def test_each_step_draws_new_inputs():
    normal = InputSettings(seed=3)
    batches = [inputs.make_batch(normal, [2], step) for step in (0, 1, 1)]
    assert not np.array_equal(batches[0], batches[1])
    assert np.array_equal(batches[1], batches[2])
    ones = InputSettings(kind=InputKind.ones)
    assert np.array_equal(inputs.make_batch(ones, [2], 7), inputs.make_input(ones, [2]))


def test_watchers_get_losses_every_second(make_run):
    run = make_run(*QUICK, "train.steps=20")
    program = compile_program(make_draft(run, identity_of(run)))
    now, watch = itertools.count(step=WATCH_EVERY_NS // 8), Watching()
    result = experiment_execute.execute(
        Job(run=run, identity=identity_of(run), compare_eager=False),
        program,
        clock=lambda: next(now),
        watch=watch,
    )
    *told, last = watch.told
    assert last == "end"
    starts = [first for first, _ in told]
    assert starts == list(range(0, starts[-1] + 1, starts[1]))
    assert 1 < len(told) < 10
    assert result.record.train.steps_s == [0.125] * 20
    known = [loss for _, losses in told for loss in losses]
    assert known == result.record.train.losses[: len(known)]


# What is carried, drawn, and left alone.


def test_statistics_carry_across_steps(execute):
    mean = execute("layer=batch_norm", "train.steps=3", "layer.kwargs.momentum=0.5").variables["batch_stats"]["mean"]
    batches = [inputs.make_batch(InputSettings(), [4, 4], step).mean(0) for step in range(3)]
    np.testing.assert_allclose(mean, batches[0] / 8 + batches[1] / 4 + batches[2] / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_dropout_masks_differ_between_steps(make_run):
    words = ("layer=transformer_block", "input_shape=[3,4]", "layer.kwargs.dropout_rate=0.5")
    run = make_run(*words, "train.steps=2", "train.optimizer=sgd", "train.learning_rate=1e-30")
    drafted = make_draft(run, identity_of(run))
    x = jnp.asarray(inputs.make_input(run.input, run.input_shape))
    compiled = compile_training(drafted, drafted.training)
    start, teacher = (drafted.model.init(root_key(seed), drafted.needs.streams, x) for seed in (0, 1))
    state, first = compiled.step(compiled.start(start, run.train.learning_rate), teacher, root_key(0), x)
    _, second = compiled.step(state, teacher, root_key(0), x)
    _, again = compiled.step(compiled.start(start, run.train.learning_rate), teacher, root_key(0), x)
    assert first == again
    assert first != second  # weights and x are the same: what changed is the mask


@pytest.mark.slow
def test_unmoved_leaves_are_named(execute):
    result = execute("layer=lora", "train.steps=2")
    assert result.record.train.not_moved == ["LoRAParam/lora/lora_a", "LoRAParam/lora/lora_b"]
    both = execute("layer=lora", "train.steps=2", "train.collections=[params,LoRAParam]")
    assert both.record.train.not_moved == []
    # lora_b starts at zero, so lora_a has no gradient in the first step.
    one = execute("layer=lora", "train.steps=1", "train.collections=[params,LoRAParam]")
    assert one.record.train.not_moved == ["LoRAParam/lora/lora_a"]


def test_updated_statistics_are_not_unmoved_leaves():
    before = {"params": {"w": np.ones(2)}, "batch_stats": {"mean": np.ones(2)}, "n": {"i": np.ones(2, int)}}
    assert training.not_moved(before, before, besides=("batch_stats",)) == ["params/w"]


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["embed", "sequential", "linen_inside", "lstm", "batch_norm"])
def test_layers_of_other_kinds_learn(layer, execute):
    # The same x at every step, so that the curve is no noisier than the optimiser.
    x = ("input=arange", "input.dtype=int32", "input_shape=[4]") if layer == "embed" else ("input=ones",)
    losses = losses_of(execute(f"layer={layer}", "train=short", *x))
    assert losses[-1] < 0.8 * losses[0]


def test_teachers_keep_integer_and_empty_leaves():
    variables = {"params": {"none": jnp.ones((0, 4)), "ids": jnp.ones(2, int), "w": jnp.ones(2)}, "n": jnp.ones(2)}
    made = teacher.make_teacher(SimpleNamespace(collections=("params",)), variables, 1)
    changed = [path for path, leaf in trees.named_arrays(made).items() if leaf.size and (leaf != 1).any()]
    assert changed == ["params/w"]


@pytest.mark.filterwarnings("ignore:Using 'Module.sow\\(\\)':DeprecationWarning")
def test_sowing_layers_train(execute):
    result = execute("layer=custom", f"layer.target={HERE}.Sows", "train.steps=3")
    assert len(losses_of(result)) == 3


def test_every_offered_optimizer_steps():
    params = {"kernel": jnp.ones((2, 2))}
    for name in optimizers.optimizer_names():
        optimizer = optimizers.make_optimizer(name, 0.1)
        jax.eval_shape(lambda p, tx=optimizer: tx.update(p, tx.init(p), p), params)


# Wrong ones.


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train=short", "train.optimizer=adamm"],
            "train.optimizer=adamm: no such function in optax that takes a learning rate and gradients alone.\n"
            "  Try: train.optimizer=adam",
        ),
        (
            ["train=short", "train.optimizer=adma"],
            "train.optimizer=adma: no such function in optax that takes a learning rate and gradients alone.\n"
            "  Try: train.optimizer=adam",
        ),
        (
            ["train=short", "train.optimizer=lbfgs"],
            "train.optimizer=lbfgs: no such function in optax that takes a learning rate and gradients alone.\n"
            "  Try: train.optimizer=adam",
        ),
        (["train.steps=-1"], "train.steps=-1: steps are a whole number from 0.\n  Try: train.steps=10"),
        (
            ["train=short", "layer=lora", "train.collections=[LoRA]"],
            "train.collections=[LoRA]: layer lora has LoRAParam, params.\n  Try: 'train.collections=[LoRAParam]'",
        ),
        (
            ["train=short", "layer=lora", "train.collections=[params,LoraParam]"],
            "train.collections=[params,LoraParam]: layer lora has LoRAParam, params.\n"
            "  Try: 'train.collections=[params,LoRAParam]'",
        ),
        (
            ["train=short", "layer=dropout"],
            "train.collections=[params]: layer dropout has no variables at all.\n  Try: train=none",
        ),
        (
            ["train=short", "layer=custom", f"layer.target={HERE}.Counts"],
            "layer Counts has no floating output, and so no loss.\n  Try: train=none",
        ),
        (
            ["train=short", "layer=custom", f"layer.target={HERE}.Whole"],
            "train.collections=[params]: params/offset is int32, and gradients are of floating numbers.\n"
            "  Try: self.offset = nnx.Variable(…) in the layer, if it is a constant",
        ),
    ],
)
def test_untrainable_settings_are_explained(words, message, make_run):
    def drafted():
        run = make_run(*words)
        return make_draft(run, identity_of(run))

    with pytest.raises((ConfigError, LayerError)) as caught:
        drafted()
    assert str(caught.value) == message


def test_a_wrong_optimizer_exits_with_2(here, capsys):
    assert main.main(["train=short", "train.optimizer=adamm"]) == 2
    assert capsys.readouterr().err.startswith("error: train.optimizer=adamm: ")


# What is left, and going on.


@pytest.mark.slow
def test_untrained_runs_ignore_training_settings(make_run):
    plain = identity_of(make_run())
    assert identity_of(make_run("train.optimizer=sgd", "train.teacher_seed=5")) == plain
    short = identity_of(make_run("train=short"))
    assert short.program_id != plain.program_id
    more, other_teacher = (
        identity_of(make_run("train=short", "train.steps=30")),
        identity_of(make_run("train=short", "train.teacher_seed=2")),
    )
    assert {short.program_id} == {more.program_id, other_teacher.program_id}
    assert len({short.result_id, more.result_id, other_teacher.result_id}) == 3


def test_trained_records_keep_their_loss_curve(execute):
    record = execute("train=short").record
    assert from_json(to_json(record)) == record
    row = columns.results_row(record)
    assert (row["train_steps"], row["loss_first"], row["loss_last"]) == (
        20,
        record.train.losses[0],
        record.train.losses[-1],
    )
    text = "\n".join(run_lines.describe(to_data(record), Path("runs/0"), width=100))
    assert f"  20 steps, loss {record.train.losses[0]:.6g} to {record.train.losses[-1]:.6g}" in text
    assert "did not move: none" in text


@pytest.mark.slow
def test_continued_run_equals_an_uninterrupted_one(here):
    words = ["layer=batch_norm", "input_shape=[4,4]", "timing=off", "checks.eager=never", "train=short"]
    lean = [*words, "tracking=disabled"]
    assert main.main([*words, "train.steps=6", "sweep=whole"]) == 0
    assert main.main([*lean, "train.steps=3", "sweep=half"]) == 0
    half = next((here / "outputs" / "half" / "runs").iterdir())
    assert main.main([*lean, "train.steps=6", "sweep=rest", f"variables={half}"]) == 0
    whole, rest = record_of(here, "whole"), record_of(here, "rest")
    assert (rest.train.first_step, rest.train.losses) == (3, whole.train.losses[3:])
    assert [leaf.digest for leaf in rest.variables] == [leaf.digest for leaf in whole.variables]
    assert rest.output[0].digest == whole.output[0].digest
    assert rest.train.state.digest == whole.train.state.digest
    assert main.main(["rerun", str(next((here / "outputs" / "rest" / "runs").iterdir()))]) == 0
    history_is_in_wandb(here, whole)
    plain_checkpoint_starts_at_step_0(here, lean, half)


def test_runs_of_a_sweep_start_from_the_variables_given(here):
    lean = ["layer=batch_norm", "input_shape=[4,4]", "timing=off", "tracking=disabled"]
    assert main.main([*lean, "train.steps=1", "checks=off", "sweep=first"]) == 0
    assert main.main([*lean, "-m", "seed=2,5", "variables=outputs/first/0/checkpoint", "sweep=both"]) == 0
    given = [leaf.digest for leaf in record_of(here, "first").variables]
    for path in (here / "outputs" / "both" / "runs").iterdir():
        assert [leaf.digest for leaf in store.read_record(RunFolder(path)).variables] == given


# Each layer in a host of another kind; between them what can go wrong: masks, statistics, a collection more, a stack.
HOSTED = (
    ("host=mlp", "layer=dropout"),
    ("host=scanned", "layer=batch_norm"),
    ("host=transformer", "host.kwargs.place=norm", "layer=batch_norm"),
    ("host=transformer", "layer=lora", "train.collections=[params,LoRAParam]"),
    ("host=scanned", "layer=multi_head_attention"),
)


@pytest.mark.slow
@pytest.mark.parametrize("words", HOSTED, ids=lambda words: "-".join(word.partition("=")[2] for word in words))
def test_continued_pipeline_equals_an_uninterrupted_one(here, words):
    lean = [*words, "input_shape=[2,3,8]", "features=8", "timing=off", "tracking=disabled", "checks.eager=never"]
    assert main.main([*lean, "train.steps=4", "sweep=whole"]) == 0
    assert main.main([*lean, "train.steps=2", "sweep=half"]) == 0
    assert main.main([*lean, "train.steps=4", "sweep=rest", "variables=outputs/half/0"]) == 0
    whole, rest = record_of(here, "whole"), record_of(here, "rest")
    assert (rest.train.first_step, rest.train.losses) == (2, whole.train.losses[2:])
    assert whole.train.not_moved == []
    assert len(set(whole.train.losses)) == 4
    assert [leaf.digest for leaf in rest.variables] == [leaf.digest for leaf in whole.variables]
    assert rest.train.state.digest == whole.train.state.digest


def history_is_in_wandb(here, record):
    (path,) = (here / "outputs" / "whole" / "wandb").glob("offline-run-*")
    run = read_offline_run(path)
    rows = [(row["train/step"], row["train/loss"]) for row in run["history"] if "train/loss" in row]
    assert rows == list(enumerate(record.train.losses))
    assert run["summary"]["loss_last"] == record.train.losses[-1]


def plain_checkpoint_starts_at_step_0(here, lean, half):
    weights = half / "checkpoint"
    assert main.main([*lean, "train.steps=2", "sweep=again", f"variables={weights}"]) == 0
    assert record_of(here, "again").train.first_step == 0


def test_only_training_runs_hash_initial_state(make_run):
    given = InitialVariables("run", {}, "weights", {"step": np.int32(3)})
    assert given.digest_for(make_run()) == "weights"
    assert given.digest_for(make_run("train=short")) not in ("weights", given.digest_for(make_run()))
    assert InitialVariables("run", {}, "weights").digest_for(make_run("train=short")) == "weights"


@pytest.mark.slow
def test_invalid_continuations_are_refused(here, capsys):
    lean = ["timing=off", "checks.eager=never", "tracking=disabled", "train=short", "train.steps=2"]
    assert main.main([*lean, "sweep=a"]) == 0
    run = next((here / "outputs" / "a" / "runs").iterdir()).relative_to(here)
    capsys.readouterr()
    assert main.main([*lean, f"variables={run}"]) == 2
    assert capsys.readouterr().err == (
        f"error: train.steps=2: {run} has made 2, and the steps are counted from its first.\n  Try: train.steps=4\n"
    )
    assert main.main([*lean, f"variables={run}", "train.steps=4", "train.optimizer=sgd"]) == 2
    assert capsys.readouterr().err == (
        f"error: variables={run}: that run trained another layer, other collections or by another optimiser, as "
        f"opt_state/0/count shows; its checkpoint alone starts again.\n  Try: variables={run}/checkpoint\n"
    )


# The twin.


@pytest.mark.parametrize(
    "words",
    [
        ("host=mlp",),
        pytest.param(("host=transformer",), marks=pytest.mark.slow),
        pytest.param(("host=scanned", "layer=batch_norm"), marks=pytest.mark.slow),
        *(pytest.param(words, marks=pytest.mark.slow) for words in (HOSTED[2], *HOSTED[4:])),
    ],
)
def test_twin_pipelines_share_a_loss_curve(make_run, words):
    run = make_run(*QUICK, *words, "train=short", "train.steps=5", "input_shape=[2,4,8]")
    drafted = make_draft(run, identity_of(run))
    x = jnp.asarray(inputs.make_input(run.input, run.input_shape))
    init = jax.jit(lambda key: drafted.model.init(key, ("params",), x))
    start, teacher = init(root_key(0)), init(root_key(1))
    linen = twins.twin_of(drafted.layer.model.nnx_class, drafted.layer.model.kwargs).layer.model
    twin = dataclasses.replace(drafted.training, model=hosts.with_linen(drafted.model, linen))
    curves = [curve(one, drafted, start, teacher) for one in (drafted.training, twin)]
    if words == HOSTED[4]:  # two attentions in a scan, which XLA fuses alike on some CPUs alone
        np.testing.assert_allclose(curves[0][0], curves[1][0], rtol=1e-6)
        return
    assert curves[0][0] == curves[1][0]
    assert curves[0][1] == curves[1][1]


def curve(one, drafted, variables, teacher):
    arguments = jax.ShapeDtypeStruct((2,), jnp.uint32), drafted.x
    compiled = training.compile_training(one, trees.shapes(variables), trees.shapes(teacher), arguments)
    trained = training.train(
        compiled,
        variables,
        saved=None,
        teacher=teacher,
        key=root_key(0),
        batch=lambda step: jnp.asarray(inputs.make_batch(InputSettings(), list(drafted.x.shape), step)),
        num_steps=5,
        clock=time.perf_counter_ns,
    )
    return trained.info.losses, trees.tree_digest(trees.leaves(trained.variables))


@pytest.mark.slow
def test_twin_loss_curves_are_compared(make_run):
    for words, said in (
        (("host=mlp",), "the pipeline with nn.Dense ends on the same loss curve bit for bit"),
        ((), "the pipeline with nn.Dense ends on the same loss curve bit for bit"),
        (("layer=lora", "train.collections=[params,LoRAParam]"), "nothing to compare: flax.linen has no LoRALinear"),
    ):
        run = make_run(*QUICK, *words, "train=short", "train.steps=3", "checks=full", "timing=off")
        identity = identity_of(run)
        program = experiment_execute.prepare(make_draft(run, identity), run)
        record = experiment_execute.execute(job.Job(run=run, identity=identity, compare_eager=False), program).record
        (check,) = (check for check in record.checks if check.name == "twin_curve")
        assert check.detail.startswith(said)


class Turn(nnx.Module):
    """One complex weight a feature: the loss is a parabola, down which every gradient leads."""

    def __init__(self, *, rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (8,), jnp.complex64))

    def __call__(self, x):
        y = x * self.w[...]
        return jnp.concatenate([y.real, y.imag], -1)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_complex_weights_go_down_the_gradient(optimizer, execute):
    words = ("input_shape=[16,8]", "train.steps=300", "train.learning_rate=0.1", f"train.optimizer={optimizer}")
    losses = losses_of(execute("layer=custom", f"layer.target={HERE}.Turn", *words))
    assert losses[0] > 0.1
    assert losses[-1] < 0.01


def test_real_gradients_keep_their_bits():
    gradients = {"a": jnp.ones(2), "b": jnp.array([1 + 2j], jnp.complex64)}
    turned = optimizers.descending(gradients)
    assert turned["a"] is gradients["a"]
    assert turned["b"] == 1 - 2j
