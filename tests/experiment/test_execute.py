"""One run from settings to record: every layer that comes along, end to end, and every way a run can end."""

from __future__ import annotations

import contextlib
import dataclasses
import signal

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from common_layers import FEW, cases
from flax import nnx
from flax.core.scope import LazyRng
from flax.nnx import bridge as nnx_bridge

from runner.arrays import checkpoint, trees
from runner.bridge import example
from runner.bridge.rngs import apply_keys, root_key
from runner.checks import nothing_invented
from runner.checks.probes.subject import subject_of
from runner.checks.results.verdicts import COMPILED, eager
from runner.config import schema, serialize
from runner.errors import LayerError
from runner.experiment import cross_checks, failures, inputs
from runner.experiment import execute as experiment_execute
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.job import Job
from runner.experiment.program import compile_program
from runner.records.codec import from_json, to_json
from runner.records.record import FailureKind, Status, Verdict

HERE = __name__
LAYERS = [name for name in schema.layer_names() if name != "custom"]
QUICK = ("timing=off", "checks.eager=never")
ALL_INFINITE = ("input=ones", "features=2", "layer.kwargs.kernel_init='constant(value=inf)'")


class MasksLogits(nnx.Module):
    """Logits of which a mask leaves some out."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        y = self.linear(x)
        return jnp.where(self.kept(y), y, -jnp.inf)

    def kept(self, y):
        return jnp.tril(jnp.ones(y.shape, bool))


class KeepsTable(nnx.Module):
    """A constant in an array of no Variable, which an eager init alone returns."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.table = self.made(rngs)

    def made(self, rngs):
        return jnp.sin(jnp.arange(4.0))

    def __call__(self, x):
        return self.linear(x) + self.table


class DrawsTable(KeepsTable):
    def made(self, rngs):
        return jax.random.normal(rngs.params(), (4,))


class TakesLogarithm(MasksLogits):
    """What is left out depends on the numbers: of half of them there is no logarithm."""

    def kept(self, y):
        return y > 0


class KeepsNothing(MasksLogits):
    def kept(self, y):
        return jnp.zeros(y.shape, bool)


class Raising(nnx.Module):
    """Raises on the host while it runs, where x is positive."""

    def __init__(self, *, rngs):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x):
        return jax.pure_callback(self.judge, jax.ShapeDtypeStruct(x.shape, x.dtype), x * self.scale[...])

    @staticmethod
    def judge(x):
        if (x > 0).all():
            raise RuntimeError("the sensor is unplugged")
        return x


class Leaving(nnx.Module):
    """Gets a signal while the host calls back; its handler raises what ends a process."""

    def __init__(self, kind, *, rngs):
        self.kind = {"exit": SystemExit(-1), "interrupt": KeyboardInterrupt()}[kind]
        signal.signal(signal.SIGUSR2, self.handler)

    def handler(self, number, frame):
        raise self.kind

    def __call__(self, x):
        return jax.pure_callback(self.leave, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def leave(self, x):
        self.handler(signal.SIGUSR2, None)


class NotAgain(nnx.Module):
    """Another output each time it is called."""

    num_calls = 0

    def __init__(self, *, rngs):
        pass

    def __call__(self, x):
        return jax.pure_callback(self.count, jax.ShapeDtypeStruct((1,), jnp.float32), x)

    @classmethod
    def count(cls, x):
        cls.num_calls += 1
        return np.full(1, cls.num_calls, np.float32)


class TwoOutputs(nnx.Module):
    def __init__(self, *, rngs):
        pass

    def __call__(self, x):
        return {"twice": x * 2, "parts": (x.sum(), x > 0)}


def prepare(run, *, compare_eager=False, **place):
    identity = identity_of(run)
    program = compile_program(make_draft(run, identity))
    return Job(run=run, identity=identity, compare_eager=compare_eager, **place), program


@contextlib.contextmanager
def monitored(listener):
    """Has `listener` told of what JAX takes time for."""
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


@pytest.fixture
def execute(make_run):
    """The result of one run of these overrides."""

    def run_it(*overrides, compare_eager=False):
        job, program = prepare(make_run(*QUICK, *overrides), compare_eager=compare_eager)
        return experiment_execute.execute(job, program)

    return run_it


@pytest.fixture(scope="module", params=cases(LAYERS, FEW))
def layer_run(request, make_run):
    """A layer of conf/, executed as it comes, once for all tests: its job, program and result."""
    job, program = prepare(make_run(*QUICK, f"layer={request.param}"))
    return job, program, experiment_execute.execute(job, program)


def verdicts(record):
    return {check.name: check.verdict for check in record.checks}


def check_named(record, name):
    return next(check for check in record.checks if check.name == name)


def bits(tree):
    return {path: (leaf.dtype.name, leaf.shape, np.asarray(leaf).tobytes()) for path, leaf in by_text(tree).items()}


def by_text(tree):
    return {"/".join(map(str, path)): leaf for path, leaf in trees.flatten(tree)}


# Every layer that comes along.


def test_conf_layers_run_and_are_recorded(layer_run):
    job, program, result = layer_run
    record = result.record
    assert (record.status, record.error) == (Status.done, None)
    assert verdicts(record) == {
        "as_traced": Verdict.passed,
        "finite": Verdict.passed,
        "repeatable": Verdict.passed,
        "eager": Verdict.skipped,
    }
    assert record.settings == serialize.to_data(job.run)
    assert {leaf.name: leaf.digest for leaf in record.variables} == {
        path: trees.array_digest(leaf) for path, leaf in by_text(result.variables).items()
    }
    assert sum(array.nbytes for array in result.output.values()) + record.variables_bytes == program.result_bytes


def test_conf_layer_records_survive_json(layer_run):
    _, _, result = layer_run
    assert from_json(to_json(result.record)) == result.record
    assert serialize.from_data(result.record.settings) == layer_run[0].run


@pytest.mark.parametrize("reader", [ocp.StandardCheckpointer, ocp.PyTreeCheckpointer])
def test_plain_orbax_restores_conf_layers_exactly(layer_run, reader, tmp_path):
    _, _, result = layer_run
    if not result.record.variables:
        with pytest.raises(checkpoint.CheckpointError, match="^the layer has no variables: there is nothing to save$"):
            checkpoint.save(result.variables, tmp_path / "c")
        return
    checkpoint.save(result.variables, tmp_path / "c")
    with reader() as plain:
        assert bits(plain.restore(tmp_path / "c")) == bits(result.variables)


def test_native_modules_reproduce_the_output(layer_run, tmp_path):
    job, program, result = layer_run
    layer, streams = program.draft.layer, result.record.streams
    keys = apply_keys(root_key(job.run.seed), streams)
    # Other weights are drawn, then replaced; the masks come from the stream that the bridge derives at its root.
    native = layer.construct(nnx.Rngs(7, **{name: LazyRng.create(key, 1).as_jax_rng() for name, key in keys.items()}))
    if result.record.variables:
        checkpoint.save(result.variables, tmp_path / "c")
        # Integers and tuples come back from Orbax as strings.
        restored = trees.with_keys_of(ocp.PyTreeCheckpointer().restore(tmp_path / "c"), result.variables)
        nnx.update(native, nnx.merge_state(*restored.values()))
    x = jnp.asarray(inputs.make_input(job.run.input, job.run.input_shape))
    assert bits(nnx.jit(lambda module, x: module(x))(native, x)) == bits(result.output[""])


# The result.


@pytest.mark.slow
def test_programs_are_deterministic_per_seed(make_run):
    job, program = prepare(make_run(*QUICK, "seed=3"))
    other = make_run(*QUICK, "seed=4")
    results = [
        experiment_execute.execute(Job(run=run, identity=identity_of(run)), program)
        for run in (job.run, job.run, other)
    ]
    first, again, third = [(bits(result.variables), bits(dict(result.output))) for result in results]
    assert first == again
    assert first[0] != third[0]
    assert first[1] != third[1]
    assert [result.record.result_id for result in results].count(job.identity.result_id) == 2


@pytest.mark.slow
def test_linear_layer_equals_the_worked_example(execute):
    result = execute("seed=5", "features=3", "input=ones")
    expected = example.nnx_inside_linen(5, jnp.ones(4), 3)
    np.testing.assert_allclose(result.output[""], expected, rtol=1e-6)
    assert result.variables["params"]["kernel"].shape == (4, 3)


@pytest.mark.slow
def test_variables_are_plain_host_arrays(execute):
    result = execute("layer=batch_norm")
    assert {type(leaf) for leaf in jax.tree.leaves(result.variables)} == {np.ndarray}
    assert [leaf.name for leaf in result.record.updated] == ["batch_stats/mean", "batch_stats/var"]
    before = {leaf.name: leaf.digest for leaf in result.record.variables}
    assert all(leaf.digest != before[leaf.name] for leaf in result.record.updated)


def test_nested_outputs_are_kept_by_path(execute):
    result = execute("layer=custom", f"layer.target={HERE}.TwoOutputs", "input=arange")
    assert {path: array.tolist() for path, array in result.output.items()} == {
        "parts/0": 6.0,
        "parts/1": [False, True, True, True],
        "twice": [0, 2, 4, 6],
    }
    assert [array.path for array in result.record.output] == ["parts/0", "parts/1", "twice"]


def test_records_hold_the_sweep_position(make_run):
    job, program = prepare(make_run(*QUICK), num=7, sweep="mine", overrides=("seed=1",))
    record = experiment_execute.execute(job, program, compiled_here=False).record
    assert (record.num, record.sweep, record.overrides) == (7, "mine", ["seed=1"])
    assert (record.run_id, record.program_id) == (job.identity.run_id, job.identity.program_id)
    assert record.timing is not None
    assert not record.timing.compiled_here


def test_timing_uses_the_given_clock(make_run):
    job, program = prepare(make_run("timing.rounds=2", "timing.warmup=1", "timing.pipeline=3", "checks.eager=never"))
    ticks = iter(range(0, 10**12, 10**6))
    timing = experiment_execute.execute(job, program, clock=lambda: next(ticks)).record.timing
    assert timing is not None
    assert timing.init.first_call_s == timing.apply.first_call_s == 0.001
    assert timing.apply_latency is not None
    assert timing.apply_latency.samples.durations_s == [0.001, 0.001]
    assert timing.apply_throughput is not None
    assert timing.apply_throughput.samples.durations_s == pytest.approx([0.001 / 3] * 2)


def test_untimed_runs_still_record_phases(execute):
    timing = execute().record.timing
    assert timing is not None
    assert (timing.apply_latency, timing.init_latency) == (None, None)
    assert timing.apply.first_call_s is not None
    assert timing.apply.compile_s > 0


# Checks.


def test_eager_check_passes_for_linear(execute):
    check = check_named(execute(compare_eager=True).record, "eager")
    assert (check.verdict, check.evidence) == (Verdict.passed, {})
    assert check.detail == "init and apply give the same bits compiled and eager"


@pytest.mark.slow
def test_rehearsal_compiles_the_eager_operations(make_run):
    seconds, draws = [], []

    def compiling(event, duration_s, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration_s)
            draws.extend(name for name in [about.get("fun_name", "")] if "truncated_normal" in name)

    run = make_run(*QUICK, "input_shape=[3]", "features=7")
    job, program = prepare(run, compare_eager=True)
    jax.clear_caches()
    with monitored(compiling):
        experiment_execute.execute(dataclasses.replace(job, compare_eager=False), program)
        others = len(seconds)
        cross_checks.rehearse_eager(job.run, program.draft)
        rehearsed = len(seconds)
        assert len(draws) == 1, "apply draws as init did"
        result = experiment_execute.execute(job, program)
    (check,) = (check for check in result.record.checks if check.name == "eager")
    assert check.verdict is Verdict.passed
    assert rehearsed - others > 5
    assert len(seconds) == rehearsed


def test_rehearsals_leave_the_given_variables_as_they_are(make_run):
    run = make_run(*QUICK, "layer=batch_norm", "input_shape=[8,4]")
    given = trees.to_host(draft_of(run).model.init(jax.random.PRNGKey(0), ("params",), jnp.ones((8, 4))))
    draft = make_draft(run, identity_of(run), given)
    before = {path: array.tobytes() for path, array in trees.named_arrays(draft.given).items()}
    with watched(nnx.BatchNorm, "__call__") as called:
        cross_checks.rehearse_eager(run, draft)
    assert called == ["done"]
    assert {path: array.tobytes() for path, array in trees.named_arrays(draft.given).items()} == before
    for array in jax.tree.leaves(draft.given):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1


@contextlib.contextmanager
def watched(kind, name):
    """How each call of a method ends."""
    ended, method = [], getattr(kind, name)

    def call(*args, **kwargs):
        ended.append("raised")
        result = method(*args, **kwargs)
        ended[-1] = "done"
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, name, call)
        yield ended


def draft_of(run):
    return make_draft(run, identity_of(run))


@pytest.mark.slow
def test_failing_rehearsals_are_ignored(make_run):
    job, program = prepare(make_run(*QUICK, "layer=custom", f"layer.target={HERE}.Raising", "input=ones"))
    cross_checks.rehearse_eager(job.run, program.draft)


@pytest.mark.slow
def test_eager_rounding_differences_warn(execute):
    record = execute("layer=embed", compare_eager=True).record
    check = check_named(record, "eager")
    assert record.status is Status.done
    model = nnx_bridge.to_linen(nnx.Embed, **record.settings["layer"]["kwargs"])
    key, x = jax.random.PRNGKey(0), jnp.zeros(record.settings["input_shape"], jnp.int32)
    eager_init, compiled = (init(key, x)["params"]["embedding"] for init in (model.init, jax.jit(model.init)))
    if np.array_equal(eager_init, compiled):  # as JAX 0.12 compiles it
        assert (check.verdict, check.detail) == (
            Verdict.passed,
            "init and apply give the same bits compiled and eager",
        )
        return
    assert check.verdict is Verdict.warn
    assert check.detail == "init differs in params/embedding by 1 ulp"
    assert check.evidence["init"]["params/embedding"]["ulp"] == 1
    assert check.evidence["apply"] == {}


def test_larger_eager_differences_fail():
    same, one = ({"": np.ones(2)},) * 2, np.ones(2, np.float32)
    for other, verdict in ((one + 1e-6, Verdict.warn), (one + 1e-3, Verdict.fail), (np.ones(3), Verdict.fail)):
        check = eager(same, ({"y": one}, {"y": other}))
        assert (check.verdict, check.fix) == (verdict, COMPILED if verdict is Verdict.fail else None)


def test_skipped_checks_give_a_reason(execute):
    check = check_named(execute().record, "eager")
    assert check.detail == "not compared: checks.eager=program compares every program"


def test_non_finite_output_fails_strict_runs(execute):
    result = execute(*ALL_INFINITE, "checks=strict")
    error = result.record.error
    assert result.record.status is Status.failed
    assert error is not None
    assert (error.kind, error.kind.value, error.type) == (FailureKind.non_finite, "non-finite output", "CheckFailed")
    assert error.message == "2 of 2 elements are NaN or infinite"
    assert check_named(result.record, "finite").evidence == {"non_finite": {"output": 2}}
    assert np.isinf(result.output[""]).all()
    assert result.variables["params"]["kernel"].shape == (4, 2)


@pytest.mark.parametrize(
    ("layer", "words", "verdict"),
    [
        ("MasksLogits", (), Verdict.warn),
        ("MasksLogits", ("input=ones",), Verdict.fail),
        ("TakesLogarithm", (), Verdict.fail),
        ("KeepsNothing", (), Verdict.fail),
    ],
)
def test_a_mask_of_the_layers_own_is_no_wrong_number(execute, layer, words, verdict):
    record = execute("layer=custom", f"layer.target={HERE}.{layer}", "input_shape=[4,4]", "checks=warn", *words).record
    check = check_named(record, "finite")
    assert check.verdict is verdict
    if verdict is Verdict.warn:
        assert check.evidence == {"non_finite": {"output": 6}}
        assert check.detail == "6 of 16 elements are -inf, at the same places for another x: right for a mask"


def test_a_raw_constant_is_no_difference_and_a_raw_weight_is(execute):
    words = ("layer=custom", f"layer.target={HERE}.KeepsTable", "input_shape=[2,4]", "checks=warn")
    check = check_named(execute(*words, compare_eager=True).record, "eager")
    assert (check.verdict, check.evidence["raw"]) == (Verdict.warn, ["raw arrays/table"])
    assert check.detail == (
        "init and apply give the same bits compiled and eager; table, of no nnx.Variable, is in the variables of one "
        "init and not of the other"
    )
    drawn = subject_of(nnx_bridge.to_linen(DrawsTable), jnp.ones((2, 4)))
    assert nothing_invented.check(drawn, full=False).verdict is Verdict.fail


def test_non_finite_output_survives_warn_mode(execute):
    record = execute(*ALL_INFINITE, "checks=warn").record
    assert (record.status, record.error) == (Status.done, None)
    assert verdicts(record)["finite"] is Verdict.fail
    assert record.output[0].num_non_finite == 2


def test_with_checks_off_none_is_made(execute):
    record = execute(*ALL_INFINITE, "checks=off").record
    assert (record.status, record.checks) == (Status.done, [])


def test_nonrepeatable_calls_are_reported(execute):
    record = execute("layer=custom", f"layer.target={HERE}.NotAgain", "checks=warn").record
    check = check_named(record, "repeatable")
    assert (record.status, check.verdict) == (Status.done, Verdict.fail)
    assert check.detail.startswith("differs in output by ")


# Failures.


@pytest.mark.parametrize(("kind", "error"), [("exit", SystemExit), ("interrupt", KeyboardInterrupt)])
def test_exit_signals_escape_from_callbacks(kind, error, execute, request):
    before = signal.getsignal(signal.SIGUSR2)
    request.addfinalizer(lambda: signal.signal(signal.SIGUSR2, before))
    with pytest.raises(error) as caught:
        execute("layer=custom", f"layer.target={HERE}.Leaving", f"layer.kwargs.kind={kind}")
    assert caught.value.args in (("-1",), ())


def test_raising_layers_fail_only_their_run(execute):
    result = execute("layer=custom", f"layer.target={HERE}.Raising", "input=ones")
    record, error = result.record, result.record.error
    assert record.status is Status.failed
    assert error is not None
    assert error.kind is FailureKind.other
    assert error.message == "RuntimeError: the sensor is unplugged"
    assert "in judge" in error.traceback
    assert (result.variables, result.output, record.checks) == ({"params": {"scale": 1.0}}, {}, [])  # what was reached
    assert from_json(to_json(record)) == record


def test_failed_runs_leave_the_program_usable(make_run):
    run = make_run(*QUICK, "layer=custom", f"layer.target={HERE}.Raising", "input=zeros")
    job, program = prepare(run)
    ones = make_run(*QUICK, "layer=custom", f"layer.target={HERE}.Raising", "input=ones")
    assert experiment_execute.execute(job, program).record.status is Status.done
    failed = experiment_execute.execute(Job(run=ones, identity=identity_of(ones)), program)
    assert failed.record.status is Status.failed
    assert experiment_execute.execute(job, program).record.status is Status.done


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no lowering"), FailureKind.compile),
        (MemoryError("too big"), FailureKind.out_of_memory),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), FailureKind.out_of_memory),
        (LayerError("the layer is gone"), FailureKind.config),
    ],
)
def test_uncompilable_runs_have_failed_records(make_run, error, kind):
    run = make_run()
    result = experiment_execute.failed(Job(run=run, identity=identity_of(run), num=4), error)
    record = result.record
    assert record.error is not None
    assert (record.status, record.error.kind, record.error.type) == (Status.failed, kind, type(error).__name__)
    assert record.error.message == str(error)
    assert (record.num, record.timing, record.streams, result.variables, result.output) == (4, None, [], None, {})
    assert from_json(to_json(record)) == record


@pytest.mark.parametrize(
    ("error", "during", "kind"),
    [
        (ValueError("x"), None, FailureKind.other),
        (ValueError("x"), FailureKind.compile, FailureKind.compile),
        (KeyboardInterrupt(), None, FailureKind.interrupted),
        (MemoryError(), FailureKind.compile, FailureKind.out_of_memory),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), None, FailureKind.out_of_memory),
    ],
)
def test_failures_are_classified_by_exception(error, during, kind):
    assert failures.describe_failure(error, kind=during).kind is kind


def test_long_tracebacks_keep_both_ends():
    def deep(depth):
        return deep(depth - 1) if depth % 2 else even(depth - 1)

    def even(depth):
        if depth < 0:
            raise ValueError("the bottom\nof it")
        return deep(depth - 1)

    with pytest.raises(ValueError, match="the bottom") as caught:
        deep(100)
    failure = failures.describe_failure(caught.value)
    lines = failure.traceback.splitlines()
    assert failure.message == "the bottom of it"
    assert len(lines) <= failures.MAX_TRACEBACK_LINES
    assert lines[0] == "Traceback (most recent call last):"
    assert "…" in lines
    assert lines[-2:] == ["ValueError: the bottom", "of it"]
