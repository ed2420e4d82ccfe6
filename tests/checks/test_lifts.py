"""The check `lifts`: what Linen does to modules can be done to a wrapped layer, and where it can't, it is said."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from common_layers import FEW, QUICK, cases
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict
from flax.nnx import bridge

from runner.checks import lifts
from runner.checks.probes.subject import subject_of
from runner.config.composing.composed import Config
from runner.experiment import execute
from runner.records.record import Verdict
from runner.sweep import validate

X = jnp.arange(8.0).reshape(2, 4) / 8
LIFTS = [
    "jit",
    "grad",
    "jax.vmap",
    "a name in a host",
    "nn.remat",
    "nn.scan over layers",
    "nn.vmap with shared params",
    "nn.vmap with stacked params",
]
NAMES = cases(QUICK, FEW)
ROUNDED = "works, rounded otherwise"


def make_layer(*, rngs):
    return nnx.Linear(4, 4, rngs=rngs)


def make_dropping(*, rngs):
    return nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))


def make_counting(*, rngs):
    return nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs))


def make_norm(*, rngs):
    return nnx.LayerNorm(4, rngs=rngs)


class CalledTwice(nn.Module):
    make: object

    @nn.compact
    def __call__(self, x):
        layer = bridge.ToLinen(self.make, name="mine")
        return layer(layer(x))


class CalledTwiceInScan(nn.Module):
    make: object

    @nn.compact
    def __call__(self, x):
        def body(host, x, _):
            layer = bridge.ToLinen(host.make, name="mine")
            return layer(layer(x)), None

        axes = {"params": 0, "batch_stats": 0}
        return nn.scan(body, variable_axes=axes, split_rngs={"params": True, "dropout": True}, length=2)(self, x, None)


class CalledTwiceInJit(nn.Module):
    make: object

    @nn.jit
    @nn.compact
    def __call__(self, x):
        layer = bridge.ToLinen(self.make, name="mine")
        return layer(x) - layer(x[::-1])


class ScannedOnce(nn.Module):
    """Linen traces the body twice, to find what it broadcasts."""

    @nn.compact
    def __call__(self, x):
        layer = bridge.ToLinen(make_layer, name="mine")
        split = {"params": False}
        return nn.scan(lambda layer, carry, row: (carry, layer(row)), variable_broadcast="params", split_rngs=split)(
            layer, None, x
        )[1]


class Discards(nn.Module):
    """Calls the layer once more for nothing."""

    make: object

    @nn.compact
    def __call__(self, x):
        layer = bridge.ToLinen(self.make, name="mine")
        layer(x)
        return layer(x)


class OneCallEach(nn.Module):
    @nn.compact
    def __call__(self, x):
        return bridge.ToLinen(make_layer, name="two")(bridge.ToLinen(make_layer, name="one")(x))


class NoBatching(nnx.Module):
    """Asks the host for its output, and does not say what a batch of inputs means."""

    def __init__(self, *, rngs):
        pass

    def __call__(self, x):
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


class NameSeen(nnx.Module):
    """Looks where in the host it is, and gives something else there."""

    def __init__(self, *, rngs):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x):
        path = nn.module._context.module_stack[-1].path
        return x * self.scale[...] + len(path)


@jax.custom_batching.custom_vmap
def bits(x):
    return (x > 0).astype(jnp.int32).sum()


@bits.def_vmap
def wrong_bits(size, _, x):
    return jnp.zeros(size, jnp.int32) - 1, True


class Masks(nnx.Module):
    """Random, with an output of few lifts; `wrong` where it is batched."""

    def __init__(self, *, wrong, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.wrong = wrong

    def __call__(self, x):
        x = self.dropout(x)
        return bits(x) if self.wrong else (x > 0).astype(jnp.int32).sum()


@pytest.fixture(scope="module")
def conf_check(make_run):
    """What the check says of a layer of conf/, asked once."""
    asked = {}

    def ask(name):
        if name not in asked:
            run = make_run(f"layer={name}")
            _, drafts = validate.validate([Config(run=run)])
            asked[name] = lifts.check(execute.subject(next(iter(drafts.values())), run), full=True)
        return asked[name]

    return ask


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_conf_layers_pass_the_lifts_check(conf_check, name):
    check = conf_check(name)
    assert sorted(check.evidence) == sorted(LIFTS)
    assert {text for text in check.evidence.values() if not text.startswith(("works", "not asked: "))} == set()
    assert check.verdict is Verdict.passed


@pytest.mark.slow
def test_constant_init_works_under_every_lift(conf_check):
    check = conf_check("layer_norm")
    assert check.detail == f"works under {', '.join(LIFTS)}"
    assert (check.verdict, check.fix) == (Verdict.passed, None)


def test_standalone_layers_allow_a_second_call(conf_check):
    check = conf_check("linear")
    assert check.verdict is Verdict.passed
    assert check.detail == (
        "works under jit, grad, jax.vmap, a name in a host, nn.remat, nn.vmap with shared params, nn.vmap with stacked "
        "params; nn.scan over layers not asked (the output is not shaped like x)"
    )


@pytest.mark.slow
def test_dropout_works_under_all_applicable_lifts(conf_check):
    check = conf_check("dropout")
    assert check.verdict is Verdict.passed
    assert check.evidence["nn.vmap with shared params"] == "not asked: no variables to share"
    assert [text for text in check.evidence.values() if text != "works"] == ["not asked: no variables to share"]


@pytest.mark.slow
def test_embeddings_are_differentiable(conf_check):
    assert conf_check("embed").evidence["grad"] == "works"


@pytest.mark.slow
def test_second_calls_without_draws_pass():
    assert lifts.check(subject_of(CalledTwice(make_norm), X), full=True).verdict is Verdict.passed


@pytest.mark.slow
@pytest.mark.parametrize("host", [OneCallEach(), ScannedOnce(), Discards(make_layer)])
def test_one_instance_a_call_is_fine(host):
    check = lifts.check(subject_of(host, X), full=True)
    assert check.verdict is Verdict.passed


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_layer, make_dropping, make_counting])
@pytest.mark.parametrize("host", [CalledTwice, CalledTwiceInScan, CalledTwiceInJit])
def test_layers_called_twice_in_hosts_fail(host, make):
    check = lifts.check(subject_of(host(make), X), full=True)
    assert check.verdict is Verdict.fail
    assert "mine is called 2 times in one host: init draws its params at each call" in check.detail


def test_one_call_fix_makes_calls_agree():
    scope = {"nnx": nnx, "bridge": bridge, "make_layer": make_layer}
    exec(lifts.ONE_CALL, scope)
    key = jax.random.PRNGKey(0)
    output, variables = scope["layer"].init_with_output(key, X)
    again = scope["layer"].apply(variables, X)
    assert jax.tree.map(lambda one, two: bool((one == two).all()), output, again) == (True, True)
    assert bool((again[0] == again[1]).all())
    twice, made = CalledTwice(make_layer).init_with_output(key, X)
    assert not jnp.allclose(twice, CalledTwice(make_layer).apply(made, X))


def test_remat_warning_suggests_working_code():
    layer = bridge.ToLinen(nnx.Dropout, kwargs=FrozenDict(rate=0.5))
    check = lifts.check(subject_of(layer, X, call={"deterministic": True}), full=True)
    assert check.verdict is Verdict.warn
    assert check.detail.startswith("works under jit, grad, jax.vmap, a name in a host, nn.scan")
    assert "; nn.remat: fails: TracerBoolConversionError: Attempted boolean conversion" in check.detail
    assert check.fix == "nn.remat(lambda layer, x: layer(x, deterministic=True))(layer, x)"

    class Host(nn.Module):
        layer: nn.Module

        @nn.compact
        def __call__(self, x):
            return eval(check.fix, {"nn": nn, "layer": self.layer, "x": x})

    assert bool((Host(layer).apply({}, X) == X).all())


def test_unbatchable_layers_fail():
    check = lifts.check(subject_of(bridge.ToLinen(NoBatching), X), full=True)
    assert check.verdict is Verdict.fail
    assert check.evidence["jit"] == check.evidence["a name in a host"] == "works"
    assert check.evidence["jax.vmap"].startswith("fails: NotImplementedError: vmap is only supported for")
    assert check.evidence["grad"].startswith("fails: ValueError: Pure callbacks do not support JVP.")
    assert "; jax.vmap: fails: NotImplementedError" in check.detail
    assert check.fix is None


def test_name_dependent_outputs_fail():
    check = lifts.check(subject_of(bridge.ToLinen(NameSeen), X), full=True)
    assert check.verdict is Verdict.fail
    assert check.evidence["a name in a host"].startswith("changes the bits (")


@pytest.mark.parametrize(
    ("wrong", "verdict"), [(True, Verdict.fail), pytest.param(False, Verdict.passed, marks=pytest.mark.slow)]
)
def test_random_layers_must_batch_right(wrong, verdict):
    check = lifts.check(subject_of(bridge.ToLinen(Masks, kwargs=FrozenDict(wrong=wrong)), X), full=True)
    assert check.verdict is verdict
    assert (check.evidence["jit"], check.evidence["a name in a host"]) == ("works", "works")
    assert (check.evidence["jax.vmap"] == "works") is not wrong


@pytest.mark.parametrize(("make", "found"), [(make_layer, {"mine": 2}), (make_norm, {})])
def test_constants_are_no_second_draw(make, found):
    assert lifts._drawn_again(subject_of(CalledTwice(make), X)) == found


def test_gradients_are_skipped_for_integer_layers():
    class Parity(nnx.Module):
        def __init__(self, *, rngs):
            pass

        def __call__(self, x):
            return x % 2

    check = lifts.check(subject_of(bridge.ToLinen(Parity), jnp.arange(4)), full=True)
    assert check.verdict is Verdict.passed
    assert check.evidence["grad"] == check.evidence["nn.remat"] == "not asked: nothing to differentiate"
