"""What `runner.check` takes, as pipelines write it, and what it says of what it can't take."""

from __future__ import annotations

import dataclasses

import flax
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge

import runner
from runner.checks.probes.subject import subject_of
from runner.checks.programs import hlo, traces
from runner.errors import UserError
from runner.records.record import Verdict

X = jnp.ones((2, 8))
LINEAR = bridge.to_linen(nnx.Linear, 8, 8)


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        (
            nnx.Linear(8, 8, rngs=nnx.Rngs(0)),
            {},
            "model is a nnx.Linear, and an object of a flax.linen.Module is wanted",
        ),
        (nn.Dense, {}, "model is the class Dense, and an object of a flax.linen.Module is wanted.\n  Try: Dense(…)"),
        (nnx.Linear, {}, "is wanted.\n  Try: bridge.to_linen(nnx.Linear, …)"),
        (lambda x: x, {}, "model is a function, and"),
        (LINEAR, {"x": None}, "x is a NoneType, and an array is wanted.\n  Try: x=jnp.ones((2, 8))"),
        (LINEAR, {"variables": [1]}, "variables is a list, and a Linen variable dict is wanted"),
        (LINEAR, {"x": jnp.ones((2, 5))}, "got (5,) and (8,).\n  Try: 'input_shape=[2,8]'"),
    ],
)
def test_uncheckable_inputs_suggest_code(model, given, said):
    with pytest.raises(UserError) as caught:
        runner.check(model, **{"x": X, **given})
    assert said in str(caught.value)


def test_nnx_state_fix_uses_flax():
    module = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"^variables is an nnx.State, and a Linen variable dict is wanted") as caught:
        runner.check(LINEAR, X, variables=nnx.state(module))
    variables = eval(str(caught.value.suggestion), {"flax": flax, "nnx": nnx, "module": module})
    (check,) = runner.check(LINEAR, X, only="complete", variables=variables)
    assert check.verdict is Verdict.passed


def test_bare_params_are_recognised():
    names = {"variables": LINEAR.init(jax.random.key(0), X)["params"]}
    (check,) = runner.check(LINEAR, X, only="complete", **names)
    assert check.detail.endswith("; these are the params without their collection")
    exec(str(check.fix), names)
    (check,) = runner.check(LINEAR, X, only="complete", variables=names["variables"])
    assert check.verdict is Verdict.passed


def test_collection_names_take_every_flax_form():
    norm = bridge.to_linen(nnx.BatchNorm, 8)
    mutable = [subject_of(norm, X, mutable=given).mutable for given in ("batch_stats", True, False, ["batch_stats"])]
    assert mutable == [("batch_stats",), ("batch_stats",), (), ("batch_stats",)]
    given = subject_of(LINEAR, X, rngs="dropout", init_rngs="params", trained="LoRAParam")
    assert (given.rngs, given.init_rngs, given.trained) == (("dropout",), ("params",), ("LoRAParam",))
    keys = {"dropout": jax.random.key(0)}
    assert subject_of(LINEAR, X, rngs=keys).rngs == ("dropout",)


def test_abstract_variables_suffice_for_traced_checks():
    shapes = jax.eval_shape(LINEAR.init, jax.random.key(0), X)
    found = runner.check(LINEAR, X, only=["complete", "trained"], variables=shapes)
    assert [check.verdict for check in found] == [Verdict.passed, Verdict.passed]


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_other_generators_of_keys_pass(generator):
    with jax.default_prng_impl(generator):  # whose keys are four numbers, as MaxText's trainer sets it
        found = runner.check(LINEAR, X, only=["complete", "nothing_invented", "streams", "seeded"])
    assert {check.name: check.verdict for check in found if check.verdict != "pass"} == {}


def test_checks_read_what_was_compiled():
    alone = subject_of(bridge.to_linen(nnx.BatchNorm, 8), X)
    apply, init = jax.jit(alone.apply), jax.jit(lambda key, x: alone.model.init(key, alone.needs.streams, x))
    given = dataclasses.replace(
        alone,
        traced_init=init.trace(alone.key, X),
        traced_apply=apply.trace(alone.shapes, alone.key, X),
    )
    assert given.applied is given.traced_apply.jaxpr
    assert traces.lines(given.applied) == traces.lines(given.trace_apply()) == traces.lines(alone.applied)
    assert traces.lines(given.initialised) == traces.lines(given.trace_init()) == traces.lines(alone.initialised)
    assert given.returned == alone.returned


def test_only_small_programs_of_its_own_are_not_optimised():
    small, large = (subject_of(LINEAR, jnp.ones((num, 8))) for num in (2, 125_000))
    assert (small.compiler_options, large.compiler_options) == (hlo.RUN_ONCE, None)
    for name in ("compiled_init", "compiled_apply"):
        assert dataclasses.replace(small, **{name: print}).compiler_options is None


def test_changed_subject_forgets_its_trace():
    model = bridge.to_linen(nnx.BatchNorm, 8)
    whole = subject_of(model, X)
    given = dataclasses.replace(whole, traced_apply=jax.jit(whole.apply).trace(whole.shapes, whole.key, X))
    fixed = given.replaced(mutable=())
    assert len(given.applied.jaxpr.outvars) == 3
    assert len(fixed.applied.jaxpr.outvars) == 1
