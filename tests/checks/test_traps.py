"""Check 10: each trap is planted and named, and its fix is run."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common_layers import FEW, QUICK, cases
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict
from flax.nnx import bridge

import runner
from runner.checks import registry, traps
from runner.checks.parts import init_errors
from runner.checks.probes.subject import subject_of
from runner.checks.registry import check_model
from runner.config.composing.composed import Config
from runner.errors import LayerError, UserError
from runner.experiment import execute
from runner.records.record import Verdict
from runner.sweep import validate

LAYERS = cases(QUICK, FEW)
X = jnp.ones((2, 4))
HEARD = "layer/__call__/0"
RNGS = {"dropout": jax.random.key(0)}


class Block(nnx.Module):
    def __init__(self, *, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.dropout(x))


class HalfReached(Block):
    def __init__(self, deterministic=False, *, rngs):
        super().__init__(rngs=rngs)
        self.dropout.deterministic = deterministic


class CalledWithTrain(Block):
    def __call__(self, x, train=False):
        return self.norm(self.dropout(x, deterministic=not train), use_running_average=not train)


class NeverDrops(Block):
    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.eval()


class Spectral(nnx.Module):
    def __init__(self, *, rngs):
        self.norm = nnx.SpectralNorm(nnx.Linear(4, 4, rngs=rngs), rngs=rngs)

    def __call__(self, x, update_stats=True):
        return self.norm(x, update_stats=update_stats)


class SowsWhatIsInside(Block):
    """What the fix of a captured `Block` says."""

    def __call__(self, x):
        y = self.dropout(x)
        self.sow(nnx.Intermediate, "dropout_output", y)
        return self.norm(y)


class Around(nn.Module):
    layer: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(self.layer(x))


class SizedHost(nn.Module):
    """A host whose sizes are what its pipeline gives."""

    sizes: Any

    @nn.compact
    def __call__(self, x):
        return bridge.to_linen(nnx.Linear, x.shape[-1], 4)(x)


class DropsNothing(nnx.Module):
    def __init__(self, *, rngs):
        self.dropout = nnx.Dropout(0.0, rngs=rngs)

    def __call__(self, x):
        return self.dropout(x)


class Titled(nnx.Module):
    def __init__(self, size, name="layer", *, rngs):
        self.title = name
        self.scale = nnx.Param(jnp.full((size,), 2.0 if name == "double" else 1.0))

    def __call__(self, x):
        return x * self.scale


class Batched(nnx.Module):
    def __init__(self, *, rngs):
        self.scale = nnx.Param(jnp.ones((4,)))

    def __call__(self, x):
        batch, _ = x.shape
        return x * self.scale / batch


class Single(nnx.Module):
    def __init__(self, *, rngs):
        self.scale = nnx.Param(jnp.ones((4,)))

    def __call__(self, x):
        return x.reshape(4) * self.scale


class Holder(nnx.Module):
    def __init__(self, inner, *, rngs):
        self.inner = inner

    def __call__(self, x):
        return self.inner(x)


class HoldsPReLU(nnx.Module):
    def __init__(self, *, rngs):
        self.inner = nnx.PReLU(rngs=rngs)


def conv(kernel_size):
    return bridge.to_linen(nnx.Conv, 4, 4, kernel_size=kernel_size)


def normal():
    return bridge.to_linen(nnx.Linear, 4, 4, kernel_init=nnx.initializers.normal(0.1))


def checked(model, x=X, **options):
    return traps.check(subject_of(model, x, **options), full=True)


def run(code, **names):
    names |= {"bridge": bridge, "nnx": nnx, "jax": jax, "functools": functools}
    names |= {"ToLinen": bridge.ToLinen, "FrozenDict": FrozenDict, "Block": Block, "HalfReached": HalfReached}
    names |= {"Titled": Titled, "Holder": Holder}
    exec(code, names)
    return names


@pytest.mark.sampled
@pytest.mark.parametrize("name", LAYERS)
def test_conf_layers_have_no_traps(make_run, name):
    run_ = make_run(f"layer={name}")
    _, drafts = validate.validate([Config(run=run_, overrides=())])
    check = traps.check(execute.subject(next(iter(drafts.values())), run_), full=True)
    reach = "train and eval within reach, " if name in ("batch_norm", "dropout") else ""
    assert check.verdict is Verdict.passed
    assert check.detail == f"no trap: equal settings are traced once, {reach}other numbers of axes taken"
    assert (check.evidence["retraced"], check.evidence["captured"]) == (False, ["__call__/0"])


def test_config_initialisers_are_made_once(make_run):
    run_ = make_run("layer.kwargs.kernel_init='normal(stddev=0.02)'")
    _, drafts = validate.validate([Config(run=run_, overrides=())])
    check = traps.check(execute.subject(next(iter(drafts.values())), run_), full=True)
    assert (check.verdict, check.evidence["retraced"]) == (Verdict.passed, False)


# A static argument of jit.


@pytest.mark.parametrize("kernel_size", [[3], np.array([3])], ids=["list", "array"])
def test_lists_and_arrays_become_tuples(kernel_size):
    check = checked(conv(kernel_size))
    assert check.evidence["unhashable"] == ["kernel_size"]
    assert check.fix == "kernel_size=(3,)"
    assert checked(run(f"model = bridge.to_linen(nnx.Conv, 4, 4, {check.fix})")["model"]).verdict is Verdict.passed


@pytest.mark.parametrize("sizes", [[4], {"width": [4]}], ids=["list", "dict"])
def test_unhashable_hosts_warn(sizes):
    check = checked(SizedHost(sizes))
    assert (check.verdict, check.evidence["unhashable"]) == (Verdict.warn, ["sizes"])
    assert check.detail.startswith("the host's sizes (")


def test_hashable_hosts_pass():
    assert checked(SizedHost((4,))).verdict is Verdict.passed


def test_dicts_become_frozen_dicts():
    check = checked(bridge.to_linen(Titled, 4, {"a": [1]}))
    assert check.fix.splitlines()[0] == "args[1]=FrozenDict({'a': (1,)})"
    fixed = eval("FrozenDict({'a': (1,)})", {"FrozenDict": FrozenDict})
    assert hash(bridge.to_linen(Titled, 4, fixed))


def test_per_model_initialisers_need_a_cache():
    check = checked(normal(), again=normal)
    assert check.fix == ("make_model = functools.cache(make_model)  # or make kernel_init once, at module level")
    make_model = run(check.fix, make_model=normal)["make_model"]
    assert checked(make_model(), again=make_model).verdict is Verdict.passed


def test_inline_initialisers_warn_without_a_factory():
    check = checked(normal())
    assert check.verdict is Verdict.warn
    assert check.detail == ("kernel_init was made by a call: made again for each model, it lets jit trace each again")
    assert checked(normal(), again=functools.cache(normal)).verdict is Verdict.fail  # its first model is another
    shared = normal()
    assert checked(shared, again=lambda: shared).verdict is Verdict.passed


def test_jit_retraces_and_refuses_as_reported():
    traced = []

    def call(model, x):
        traced.append(1)
        return model.apply(variables, x)

    jitted = jax.jit(call, static_argnums=0)
    variables = normal().init(jax.random.key(0), X)
    jitted(normal(), X), jitted(normal(), X)
    assert len(traced) == 2
    with pytest.raises(ValueError, match="Non-hashable static arguments are not supported"):
        jitted(conv([3]), X)


# Train and eval.


def test_unreachable_modes_need_a_factory():
    check = checked(bridge.to_linen(Block))
    assert check.verdict is Verdict.warn
    assert check.detail == (
        "no argument of the call or the constructor reaches dropout.deterministic, norm.use_running_average, "
        "and .eval() changes nothing: it takes a factory that sets them"
    )
    models = run(check.fix)
    variables = models["train"].init({"params": jax.random.key(0), **RNGS}, X)
    trained, _ = models["train"].apply(variables, X, rngs=RNGS, mutable=["batch_stats"])
    np.testing.assert_allclose(models["test"].apply(variables, X), X, atol=1e-4)
    assert not np.allclose(trained, X)


def test_eval_on_bound_modules_does_nothing():
    model = bridge.to_linen(Block)
    variables = model.init({"params": jax.random.key(0), **RNGS}, X)
    bound = model.bind(variables, rngs=RNGS, mutable=["batch_stats"])
    before = bound(X)
    bound.eval()
    assert not np.allclose(before, X)
    np.testing.assert_array_equal(model.bind(variables, rngs=RNGS, mutable=["batch_stats"])(X), before)


def test_modes_stuck_in_evaluation_warn():
    check = checked(bridge.to_linen(NeverDrops))
    assert check.verdict is Verdict.warn
    assert "dropout.deterministic, norm.use_running_average, and .train() changes nothing" in check.detail


def test_constructor_arguments_reach_only_some_modes():
    check = checked(bridge.to_linen(HalfReached))
    assert check.evidence["unreached"] == ["norm.use_running_average"]
    assert "    layer.set_attributes(use_running_average=evaluate)\n" in check.fix
    assert run(check.fix)["test"].kwargs == FrozenDict(evaluate=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        bridge.to_linen(CalledWithTrain),
        bridge.to_linen(Spectral),
        bridge.to_linen(DropsNothing),
        bridge.to_linen(nnx.Dropout, 0.5, deterministic=False),
        bridge.to_linen(nnx.MultiHeadAttention, 2, 4, dropout_rate=0.5, deterministic=False, decode=False),
        nn.Dense(3),
    ],
    ids=["call", "update_stats", "rate 0", "dropout", "attention", "linen"],
)
def test_reachable_modes_are_no_trap(model):
    assert checked(model, jnp.ones((2, 3, 4))).verdict is Verdict.passed


# What to_linen keeps, axes, interceptors.


def test_swallowed_names_work_through_kwargs():
    swallowed = bridge.to_linen(Titled, 4, name="double")
    check = checked(swallowed)
    assert (check.verdict, check.detail) == (
        Verdict.warn,
        "its constructor takes name, which to_linen keeps for itself: it got none here",
    )
    assert check.fix == "ToLinen(Titled, args=(4,), kwargs=FrozenDict(name='double'))"
    fixed = run(f"model = {check.fix}")["model"]
    ones, twos = (model.init(jax.random.key(0), X)["params"]["scale"] for model in (swallowed, fixed))
    assert (ones[0], twos[0]) == (1.0, 2.0)
    assert checked(fixed).detail == (
        "its constructor takes name, which to_linen keeps for itself: ToLinen's kwargs give it name here"
    )


def test_layers_needing_a_batch_axis_warn():
    check = checked(bridge.to_linen(Batched))
    assert (check.verdict, check.detail) == (
        Verdict.warn,
        "it needs a batch axis: x of 2 axes works, x[0] raises "
        "ValueError: not enough values to unpack (expected 2, got 1)",
    )
    model = bridge.to_linen(Batched)
    names = run(check.fix, model=model, variables=model.init(jax.random.key(0), X), one=X[0])
    assert names["y"].shape == (4,)


def test_vmap_fixes_layers_without_a_batch():
    check = checked(bridge.to_linen(Single), X[0])
    assert (check.verdict, check.detail) == (
        Verdict.warn,
        "it takes no batch axis: x of shape [2, 4] raises "
        "TypeError: cannot reshape array of shape (2, 4) (size 8) into shape 4 (size 4)",
    )
    model = bridge.to_linen(Single)
    names = run(check.fix, model=model, variables=model.init(jax.random.key(0), X[0]), x=X)
    assert names["y"].shape == (2, 4)


def test_linen_sees_only_the_wrapper():
    seen = []

    def watch(call, args, kwargs, context):
        seen.append(type(context.module).__name__)
        return call(*args, **kwargs)

    model = bridge.to_linen(Block)
    variables = model.init({"params": jax.random.key(0), **RNGS}, X)
    with nn.intercept_methods(watch):
        model.apply(variables, X, rngs=RNGS, mutable=["batch_stats"])
    evidence = checked(model).evidence
    assert set(seen) == {"ToLinen"}  # its __call__ and setup
    assert (evidence["captured"], evidence["modules_inside"]) == (["__call__/0"], 2)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")
def test_hidden_intermediates_are_fixed_by_sowing():
    check = checked(Around(bridge.to_linen(Block)), mutable=["batch_stats", "intermediates"])
    assert (check.verdict, check.evidence["captured"]) == (Verdict.fail, ["Dense_0/__call__/0", "__call__/0", HEARD])
    assert check.detail.endswith(
        f"apply is asked for intermediates, and capture_intermediates sees Dense_0/__call__/0, __call__/0, {HEARD}: "
        "none of layer/dropout, layer/norm inside the wrapper"
    )
    assert "self.sow(nnx.Intermediate, 'dropout_output', y)" in check.fix.splitlines()
    sown = checked(Around(bridge.to_linen(SowsWhatIsInside)), mutable=["batch_stats", "intermediates"])
    assert "captured" not in sown.detail and sown.verdict is Verdict.warn  # of its mode alone
    assert "layer/dropout_output/0" in sown.evidence["captured"]
    assert checked(Around(bridge.to_linen(nnx.Linear, 4, 4)), mutable=["intermediates"]).verdict is Verdict.passed


def test_several_traps_report_the_worst_verdict():
    check = checked(bridge.to_linen(Titled, 4, ["a"]))
    assert check.verdict is Verdict.fail
    assert check.detail == (
        "args[1] (list) can't be hashed: as a static argument of jit the model raises ValueError; "
        "its constructor takes name, which to_linen keeps for itself: it got none here"
    )


# Why a module can't even be initialised.


def linear():
    return nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))


def test_skip_rng_fixes_constructors_without_rngs():
    (check,) = runner.check(bridge.to_linen(nnx.PReLU, 0.3), X)
    assert check.fix == "model = bridge.to_linen(nnx.PReLU, 0.3, skip_rng=True)"
    assert checked(run(check.fix)["model"]).verdict is Verdict.passed


def test_factories_fix_sequentials_of_instances():
    (check,) = check_model(bridge.to_linen(nnx.Sequential, linear(), nnx.relu), X)
    assert check.detail == "the constructor of Sequential takes no rngs, which the wrapper passes"
    assert check.fix == (
        "def make_layer(*, rngs):  # every module is made inside\n"
        "    return nnx.Sequential(nnx.Linear(in_features=4, out_features=4, use_bias=False, rngs=rngs), nnx.relu)\n"
        "model = bridge.to_linen(make_layer)"
    )
    assert checked(run(check.fix)["model"]).verdict is Verdict.passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "x", "raised", "call"),
    [
        (
            lambda: bridge.to_linen(Holder, linear()),
            X,
            "(args[0]=Linear), and jit traces it: TraceContextError: Cannot mutate Param from a different trace level",
            "Holder(nnx.Linear(in_features=4, out_features=4, use_bias=False, rngs=rngs), rngs=rngs)",
        ),
        (
            lambda: bridge.to_linen(nnx.RNN, nnx.LSTMCell(4, 4, rngs=nnx.Rngs(0))),
            jnp.ones((2, 3, 4)),
            "(args[0]=LSTMCell), and jit traces it: ValueError: Cannot extract graph node from different trace level, "
            "got Param( # 4 (16 B) value=Array([0., 0., 0., 0.], dtype=float32) )",
            "nnx.RNN(nnx.LSTMCell(in_features=4, hidden_features=4, rngs=rngs), rngs=rngs)",
        ),
    ],
    ids=["linear", "rnn"],
)
def test_factories_fix_module_instance_arguments(make, x, raised, call):
    (check,) = check_model(make(), x)
    assert check.verdict is Verdict.fail
    assert check.detail == f"a module that was made outside was passed in {raised}"
    assert check.fix.splitlines()[1] == f"    return {call}"
    assert checked(run(check.fix)["model"], x).verdict is Verdict.passed


def test_fix_from_an_error_alone_runs():
    with pytest.raises(LayerError) as caught:
        subject_of(bridge.to_linen(Holder, linear()), X)
    check = init_errors.why_it_fails(caught.value)
    assert check is not None
    model = run(check.fix, MyLayer=Holder)["model"]
    assert checked(model).verdict is Verdict.passed


@pytest.mark.parametrize("model", [bridge.to_linen(HoldsPReLU), bridge.to_linen(nnx.Linear, 5, 4)])
def test_another_error_is_raised_on(model):
    with pytest.raises(LayerError, match="layer ToLinen can't (take x of shape|be built from its layer.kwargs)"):
        runner.check(model, X)


def test_only_named_checks_run():
    model = bridge.to_linen(nnx.Linear, 4, 4)
    asked = runner.check(model, X, only=["traps", "complete"])
    assert [check.name for check in asked] == ["complete", "traps"]
    with pytest.raises(UserError) as caught:
        runner.check(model, X, only=["trap"])
    known = ", ".join([*registry.TRACED, *registry.FULL])
    assert str(caught.value) == f"only='trap': no such check; there are {known}.\n  Try: only=['traps']"
