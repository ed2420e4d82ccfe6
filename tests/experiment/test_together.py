"""Runs that train as one program: no bit of one depends on the others, and a layer that mixes runs is found out."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from runner.arrays import trees
from runner.errors import ConfigError
from runner.experiment import execute as experiment_execute
from runner.experiment import isolation, trained_run
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.job import Job
from runner.experiment.program import compile_program
from runner.experiment.train.population import Torn

HERE = __name__
SLOW = pytest.mark.slow
SIZE = 4
QUICK = ("timing=off", "checks.eager=never", "input_shape=[3,4]", "train.steps=3", f"train.together={SIZE}")


@jax.custom_batching.custom_vmap
def centred(x):
    """What is alone as it is; of several, each without the mean of all."""
    return x


@centred.def_vmap
def _of_several(axis_size, in_batched, x):
    return x - x.mean(0, keepdims=True) * 1e-3, True


@jax.custom_batching.custom_vmap
def placed(x):
    """What is alone as it is; of several, more the further back it is."""
    return x


@placed.def_vmap
def _by_place(axis_size, in_batched, x):
    return x * (1 + 1e-3 * jnp.arange(axis_size).reshape(-1, *[1] * (x.ndim - 1))).astype(x.dtype), True


@jax.custom_batching.custom_vmap
def doubled(x):
    """What is alone as it is; of several, each twice as much, whatever the others are."""
    return x


@doubled.def_vmap
def _each_doubled(axis_size, in_batched, x):
    return x * 2, True


def _lent(x):
    """Several calls in one: NumPy that sums over the first axis, whatever that is."""
    return np.asarray(x + 1e-3 * np.asarray(x).sum(0, keepdims=True), x.dtype)


# Python's own memory: the last run's input, which reaches the next one.
LEFT = [np.zeros((), np.float32)]


def _remembered(x):
    before, LEFT[0] = LEFT[0], np.asarray(x).mean() * np.float32(1e-3)
    return np.asarray(x + before, x.dtype)


def called_back(function, how, x):
    """A callback behind which no gradient goes."""
    stopped = jax.lax.stop_gradient(x)
    return x + jax.pure_callback(function, jax.ShapeDtypeStruct(x.shape, x.dtype), stopped, vmap_method=how) - stopped


def halved_until_small(x):
    """As many rounds as the largest value of the run needs."""
    small = jax.lax.while_loop(lambda y: jnp.max(jnp.abs(y)) > 0.1, lambda y: y / 2, jax.lax.stop_gradient(x))
    return x + small


def through_rbg(x):
    """Numbers of a generator that gives several runs those of the first."""
    key = jax.random.wrap_key_data(jax.lax.bitcast_convert_type(jnp.tile(x.ravel()[:1], 4), jnp.uint32), impl="rbg")
    return x + jax.random.normal(key, x.shape, x.dtype)


CHANGES = {
    "plain": lambda x: x,
    "sorted": lambda x: jnp.sort(x, axis=0) + jax.lax.top_k(x, 2)[0].sum(),
    "loop": halved_until_small,
    "sequential": functools.partial(called_back, lambda x: np.asarray(x * 2, x.dtype), "sequential"),
    "centred": lambda x: centred(x),
    "placed": lambda x: placed(x),
    "doubled": lambda x: doubled(x),
    "lent": functools.partial(called_back, _lent, "broadcast_all"),
    "remembered": functools.partial(called_back, _remembered, "sequential"),
    "rbg": through_rbg,
    "unbatched": functools.partial(called_back, lambda x: x, None),
}


class Changed(nnx.Module):
    """A linear layer whose input goes through one of the functions above."""

    def __init__(self, *, change, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.change = change

    def __call__(self, x):
        return self.linear(CHANGES[self.change](x))


class Everything(nnx.Module):
    """Statistics, dropout and low precision, with a norm before."""

    def __init__(self, in_features, features, *, rngs):
        self.first = nnx.Linear(in_features, features, rngs=rngs, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16)
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.first(x)))


@pytest.fixture(scope="module")
def make_program(make_run):
    """A run of these overrides and its program, compiled for several; equal ones once."""
    known = {}

    def make(*overrides):
        if overrides not in known:
            run = make_run(*QUICK, *overrides)
            draft = make_draft(run, identity_of(run))
            population, together = isolation.compiled(draft)
            program = dataclasses.replace(compile_program(draft), population=population, together=together)
            known[overrides] = run, program
        return known[overrides]

    return make


def members_of(run, program, seeds):
    found = []
    for seed in seeds:
        one = dataclasses.replace(run, seed=seed)
        arguments = trained_run.arguments_of(one, program)
        found.append(
            (one, trained_run.make_member(one, program, trained_run.initial_of(program, arguments), arguments))
        )
    return found


def train(run, program, seeds):
    """The bits of these seeds, trained together: losses, variables and optimiser state."""
    found = trained_run.train_members(program, members_of(run, program, seeds))
    return dict(zip(seeds, map(bits, found), strict=True))


def bits(trained):
    digests = [trees.tree_digest(trees.leaves(tree)) for tree in (trained.variables, trained.state)]
    return np.asarray(trained.info.losses).tobytes(), *digests


LAYERS = (
    ("layer=custom", f"layer.target={HERE}.Everything"),
    ("layer=linear",),
    pytest.param(("layer=mlp",), marks=SLOW),
    pytest.param(("layer=linear", "host=mlp"), marks=SLOW),
    pytest.param(("layer=multi_head_attention", "input_shape=[2,3,8]"), marks=SLOW),
)


@pytest.mark.parametrize("overrides", LAYERS, ids=lambda one: one[-1].rpartition("=")[2])
def test_bits_depend_on_no_other_run(make_program, overrides):
    run, program = make_program(*overrides)
    together = train(run, program, [0, 1, 2, 3])
    assert train(run, program, [3, 2, 1, 0]) == together
    assert train(run, program, [1, 7, 8, 9])[1] == together[1]
    assert train(run, program, [2]) == {2: together[2]}
    assert len({one[0] for one in together.values()}) == SIZE
    assert isolation.proved(program, run).together.alone is None


@pytest.mark.parametrize(
    "change", ["loop", "sequential", pytest.param("sorted", marks=SLOW), pytest.param("plain", marks=SLOW)]
)
def test_layers_that_keep_runs_apart_train_together(make_program, change):
    run, program = make_program("layer=custom", f"layer.target={HERE}.Changed", f"+layer.kwargs.change={change}")
    proved = isolation.proved(program, run)
    assert (proved.population is program.population, proved.together.alone) == (True, None)
    assert proved.together.params_abs < 1e-6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("centred", "the layer mixes runs: a run among others has other bits"),
        ("placed", "the layer tells runs apart by their place: in another order they have other bits"),
        ("doubled", "the layer mixes runs: among others the first loss of a run is "),
        pytest.param("lent", "the layer mixes runs: a run among others has other bits", marks=SLOW),
        pytest.param(
            "remembered", "the layer tells runs apart by their place: in another order they have other bits", marks=SLOW
        ),
        pytest.param(
            "rbg", "the layer tells runs apart by their place: in another order they have other bits", marks=SLOW
        ),
        pytest.param("unbatched", "JAX can't compile a step of several runs: ", marks=SLOW),
    ],
)
def test_layers_that_mix_runs_train_alone(make_program, change, reason):
    run, program = make_program("layer=custom", f"layer.target={HERE}.Changed", f"+layer.kwargs.change={change}")
    proved = isolation.proved(program, run)
    assert proved.population is None
    assert proved.together.alone.startswith(reason)
    (check,) = isolation.check(proved, run)
    assert (check.verdict, check.detail) == ("warn", f"each run trains alone: {proved.together.alone}")


def test_copies_that_differ_end_the_training(make_program):
    run, program = make_program("layer=custom", f"layer.target={HERE}.Changed", "+layer.kwargs.change=placed")
    with pytest.raises(Torn, match="copies of one run have different losses"):
        train(run, program, [0, 1])


def test_nan_in_one_run_stays_there(make_program):
    run, program = make_program("layer=linear")
    members = members_of(run, program, [0, 1])
    poisoned = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), members[0][1].state.params)
    members[0] = run, dataclasses.replace(members[0][1], state=members[0][1].state.replace(params=poisoned))
    sick, healthy = trained_run.train_members(program, members)
    assert np.isnan(sick.info.losses).all()
    assert bits(healthy) == train(run, program, [1])[1]


def test_each_run_has_its_learning_rate_and_input(make_program):
    run, program = make_program("layer=linear")
    changed = dataclasses.replace(run, train=dataclasses.replace(run.train, learning_rate=0.5))
    drawn = dataclasses.replace(run, input=dataclasses.replace(run.input, seed=3))
    assert {identity_of(one).program_id for one in (changed, drawn)} == {identity_of(run).program_id}
    members = [members_of(one, program, [0])[0] for one in (run, changed, drawn)]
    plain, faster, other = trained_run.train_members(program, members)
    assert plain.info.losses[0] == faster.info.losses[0] != other.info.losses[0]
    assert plain.info.losses[1:] != faster.info.losses[1:]
    alone = experiment_execute.execute(
        Job(run=changed, identity=identity_of(changed), compare_eager=False),
        dataclasses.replace(program, population=None),
    )
    np.testing.assert_allclose(faster.info.losses, alone.record.train.losses, rtol=1e-5)


def test_dropout_draws_what_it_draws_alone(make_program):
    run, program = make_program("layer=custom", f"layer.target={HERE}.Everything")
    together = train(run, program, [5])[5]
    arguments = trained_run.arguments_of(dataclasses.replace(run, seed=5), program)
    alone = trained_run.train(
        dataclasses.replace(run, seed=5),
        dataclasses.replace(program, population=None),
        trained_run.initial_of(program, arguments),
        arguments,
    )
    np.testing.assert_allclose(np.frombuffer(together[0]), alone.info.losses, rtol=1e-5)


def test_records_name_size_and_distance(make_program):
    run, program = make_program("layer=linear")
    proved = isolation.proved(program, run)
    result = experiment_execute.execute(Job(run=run, identity=identity_of(run), num=7, compare_eager=False), proved)
    found = result.record.train.together
    assert (found.num, found.runs, found.measured_on, found.num_steps, found.alone) == (SIZE, [7], 0, 3, None)
    assert found.loss_ulp is not None
    assert found.params_abs < 1e-6
    again = experiment_execute.execute(Job(run=run, identity=identity_of(run), compare_eager=False), proved)
    assert again.record.variables == result.record.variables


@pytest.fixture
def other_generator():
    """JAX as MaxText sets it."""
    jax.config.update("jax_default_prng_impl", "rbg")
    yield
    jax.config.update("jax_default_prng_impl", "threefry2x32")


def test_generators_that_mix_runs_are_refused(make_run, other_generator):
    run = make_run("train.steps=1", "train.together=8")
    with pytest.raises(ConfigError, match="keys of rbg draw the same numbers for several runs"):
        make_draft(run, identity_of(run))


def test_what_can_not_train_together_is_refused(make_run):
    with pytest.raises(ConfigError, match="train.together=8: a run over a mesh trains alone"):
        make_run("train.steps=1", "train.together=8", "mesh.axes={data:1}")
    for value in ("many", "0", "-1"):
        with pytest.raises(ConfigError, match="train.together.*: how many runs train as one program"):
            make_run(f"train.together={value}")
