"""The check `parity`: what a wrapped layer is beside the native one and beside its Linen twin."""

from __future__ import annotations

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common_layers import FEW, QUICK, cases
from flax import linen as nn
from flax import nnx
from flax.core.scope import LazyRng
from flax.nnx import bridge

import runner
from runner.arrays import trees
from runner.bridge import native
from runner.bridge.needs import find_needs
from runner.bridge.rngs import init_keys, native_streams, root_key
from runner.bridge.wrap import Bridged
from runner.checks import parity
from runner.checks.probes.subject import Subject, subject_of
from runner.checks.programs import hlo
from runner.experiment import execute
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.records.record import Verdict

LAYERS = cases(QUICK, FEW)
TWINS = {
    "batch_norm": "nn.BatchNorm",
    "conv": "nn.Conv",
    "embed": "nn.Embed",
    "layer_norm": "nn.LayerNorm",
    "linear": "nn.Dense",
    "multi_head_attention": "nn.MultiHeadDotProductAttention",
    "rms_norm": "nn.RMSNorm",
}


class TwoLinear(nnx.Module):
    def __init__(self, *, rngs, reverse=False):
        for name in ("second", "first") if reverse else ("first", "second"):
            setattr(self, name, nnx.Linear(4, 4, rngs=rngs))

    def __call__(self, x):
        return self.second(self.first(x))


class Counting(nnx.Module):
    """Another layer each time it is made: what it draws hangs on what the process did before."""

    made = itertools.count()

    def __init__(self, *, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (4,)) + next(self.made))

    def __call__(self, x):
        return x * self.kernel[...]


class Off(nnx.Module):
    """Its output is `factor` times the input, whatever its param."""

    def __init__(self, factor, *, rngs):
        self.factor = factor
        self.scale = nnx.Param(jnp.ones(4))

    def __call__(self, x):
        return x * self.scale[...] * self.factor


class Masks(nnx.Module):
    """Weights, a mask, a running mean and integer keys in one layer."""

    def __init__(self, *, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = self.dropout(layer(x))
        return self.norm(x)


def wrapped(nnx_class, construct=None, x=None, **kwargs) -> Subject:
    """A wrapped layer as a subject; `construct` builds something else natively."""
    model = bridge.ToLinen(nnx_class, kwargs=nn.FrozenDict(kwargs))
    layer = Bridged(model=model, construct=construct or (lambda rngs: nnx_class(**kwargs, rngs=rngs)))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), jnp.float32) if x is None else x
    needs = find_needs(layer, x, nnx_class.__name__)
    return Subject(
        label=nnx_class.__name__, model=layer, layer=layer, needs=needs, x=x, rngs=needs.streams, mutable=needs.mutable
    )


def check_of(subject):
    return parity.check(subject, full=True)


@pytest.fixture(scope="module", params=LAYERS)
def of_conf(request, make_run):
    """What the check says of a layer of conf/."""
    run = make_run("timing=off", f"layer={request.param}")
    return request.param, check_of(execute.subject(make_draft(run, identity_of(run)), run))


def test_conf_layers_match_their_native_module(of_conf):
    _, check = of_conf
    assert check.verdict is Verdict.passed
    assert check.detail.startswith("native: the same variables")
    parts = ("variables", "output", "updates", "gradient")
    assert [check.evidence[part] for part in parts] == [{}] * 4


def test_conf_layers_match_their_linen_twin(of_conf):
    name, check = of_conf
    linen = check.evidence["linen"]
    assert linen["layer"] == TWINS.get(name, "")
    if name in TWINS:
        assert linen == {"layer": TWINS[name], "why": "", "tree": {}, "output": {}, "updates": {}, "gradient": {}}
        assert check.evidence["hlo_equal"]["linen"] is (name != "multi_head_attention")
        program = "another" if name == "multi_head_attention" else "the same"
        assert f"; Linen {TWINS[name]}: the same tree; the same output" in check.detail
        assert f" bit for bit; {program} optimised HLO; steady " in check.detail


def test_evidence_includes_the_costs(of_conf):
    name, check = of_conf
    assert json.loads(json.dumps(check.evidence)) == check.evidence
    variants = {"bridged", "native"} | ({"linen"} if name in TWINS else set())
    assert check.evidence["costs"].keys() == variants
    for cost in check.evidence["costs"].values():
        assert min(cost["trace_s"], cost["lower_s"], cost["compile_s"], cost["steady_s"]) > 0
        assert len(cost["samples_s"]) == parity.ROUNDS
        assert cost["cache"] in ("off", "cold", "warm")
    costs = check.evidence["costs"]
    for other, ratio in check.evidence["steady_ratio"].items():
        pairs = zip(costs["bridged"]["samples_s"], costs[other]["samples_s"], strict=True)
        assert ratio["median"] == pytest.approx(np.median([ours / theirs for ours, theirs in pairs]))
        assert ratio["low"] <= ratio["median"] <= ratio["high"]


@pytest.mark.slow
def test_masks_and_running_means_are_compared():
    check = check_of(wrapped(Masks))
    assert check.verdict is Verdict.passed
    assert check.detail.startswith("native: the same variables, output, updates and gradient bit for bit; steady ")


class Tabled(nnx.Module):
    """Holds a constant that is no Variable."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.table = jnp.arange(4.0)

    def __call__(self, x):
        return self.linear(x) * self.table


@pytest.mark.slow
def test_raw_arrays_do_not_prevent_comparison():
    check = check_of(wrapped(Tabled))
    assert check.verdict is Verdict.passed
    assert check.detail.startswith("native: the same variables, output and gradient bit for bit; steady ")


@pytest.mark.slow
def test_another_draw_order_fails():
    check = check_of(wrapped(TwoLinear, lambda rngs: TwoLinear(rngs=rngs, reverse=True)))
    assert check.verdict is Verdict.fail
    assert check.evidence["variables"].keys() == {"params/first/kernel", "params/second/kernel"}
    assert check.detail.startswith("native: variables differ in params/first/kernel by ")


@pytest.mark.slow
def test_modules_differing_per_construction_fail():
    check = check_of(wrapped(Counting))
    assert check.verdict is Verdict.fail
    assert check.detail.startswith("native: variables differ in params/kernel by ")


@pytest.mark.slow
def test_fixed_layer_has_parity():
    scope = {"nnx": nnx, "jax": jax}
    exec(check_of(wrapped(Counting)).fix, scope)
    assert check_of(wrapped(scope["Mine"])).verdict is Verdict.passed


@pytest.mark.slow
def test_leaves_of_only_one_are_named():
    check = check_of(wrapped(TwoLinear, lambda rngs: nnx.Linear(4, 4, rngs=rngs)))
    assert check.verdict is Verdict.fail
    assert check.detail == (
        "native: variables differ in params/bias (only native), params/first/bias (only bridged), "
        "params/first/kernel (only bridged) and 3 more"
    )


@pytest.mark.parametrize(
    ("factor", "verdict"), [(2.0, Verdict.fail), (1.0 + 2**-20, Verdict.fail), (1.0 + 2**-23, Verdict.warn)]
)
def test_one_ulp_warns_and_more_fails(factor, verdict):
    check = check_of(wrapped(Off, lambda rngs: Off(factor, rngs=rngs), factor=1.0))
    assert check.verdict is verdict
    assert check.detail.startswith("native: the same variables bit for bit; output differs in output by ")
    assert "gradient differs in scale by " in check.detail


def test_fusing_explains_four_ulp():
    found = [
        parity._worst(one) for one in ({}, {"a": {"ulp": 4}}, {"a": {"ulp": 5}}, {"a": {"ulp": 1}, "b": "only native"})
    ]
    assert found == [0, 4, None, None]


def test_what_init_leaves_zero_is_compared():
    class Gate(Off):
        def __init__(self, factor, *, rngs):
            super().__init__(factor, rngs=rngs)
            self.scale[...] = jnp.zeros(4)

    check = check_of(wrapped(Gate, lambda rngs: Gate(2.0, rngs=rngs), factor=1.0))
    assert check.verdict is Verdict.fail
    assert check.detail.startswith("native: the same variables bit for bit; output differs in output by ")


@pytest.mark.slow
def test_bfloat16_norm_warns_about_its_twin():
    check = check_of(wrapped(nnx.LayerNorm, num_features=4, dtype=jnp.bfloat16))
    assert check.verdict is Verdict.warn
    assert "; Linen nn.LayerNorm: the same tree; output differs in output by " in check.detail
    assert "; another optimised HLO; steady " in check.detail
    assert (check.evidence["output"], check.evidence["gradient"]) == ({}, {})


@pytest.mark.slow
def test_twin_tree_mismatch_names_the_leaf():
    x = jnp.ones((2, 4))
    check = check_of(wrapped(nnx.Einsum, einsum_str="bd,dh->bh", kernel_shape=(4, 3), bias_shape=(1, 3), x=x))
    assert check.verdict is Verdict.warn
    assert "; Linen nn.Einsum: another tree: params/bias is float32[1, 3] against float32[3]; steady " in check.detail
    assert "linen" not in check.evidence["costs"]


@pytest.mark.slow
def test_missing_twin_is_explained():
    check = check_of(wrapped(nnx.Linear, in_features=4, out_features=2, preferred_element_type=jnp.float32))
    assert check.verdict is Verdict.passed
    why = "nnx.Linear's preferred_element_type has no equivalent in nn.Dense"
    assert f"; no Linen twin: {why}; steady " in check.detail


@pytest.mark.slow
def test_positional_and_keyword_arguments_both_compare():
    for model in (nnx.bridge.to_linen(nnx.Linear, 4, 4), nnx.bridge.to_linen(nnx.Linear, 4, out_features=4)):
        (check,) = runner.check(model, jnp.ones((2, 4)), only=["parity"])
        assert check.detail.startswith("native: the same variables, output and gradient bit for bit; Linen nn.Dense: ")


def test_a_host_has_nothing_to_compare():
    check = check_of(subject_of(nn.Dense(2), jnp.ones((1, 4))))
    assert check.verdict is Verdict.passed
    assert check.detail == "nothing to compare: only a wrapped layer by itself has a native module"


# The formula.


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Inner(name="inner")(x)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return bridge.ToLinen(nnx.Linear, args=(4, 2), name="layer")(x)


@pytest.mark.parametrize("path", [(), ("layer",), ("inner", "layer")])
def test_streams_follow_the_flax_key_path(path):
    keys = init_keys(root_key(7), ("params", "dropout"))
    streams = native_streams(keys, path)
    assert streams.keys() == keys.keys()
    for name, key in keys.items():
        assert (streams[name] == LazyRng.create(key, *path, 1).as_jax_rng()).all()


def test_nested_kernels_follow_the_key_formula():
    keys = {"params": jax.random.PRNGKey(3)}
    kernel = Nested().init(keys, jnp.ones((1, 4)))["params"]["inner"]["layer"]["kernel"]
    streams = native_streams(keys, ("inner", "layer"))
    assert (nnx.Linear(4, 2, rngs=nnx.Rngs(**streams)).kernel[...] == kernel).all()


def test_native_variables_have_linen_names():
    subject = wrapped(Masks)
    keys = init_keys(subject.key, subject.needs.streams)
    shapes = jax.eval_shape(lambda keys: native.variables(subject.layer, keys), keys)
    assert trees.flatten(shapes) == trees.flatten(subject.needs.variables)


# Programs.


def test_names_and_lines_leave_programs_equal():
    def one(x):
        return jnp.sin(x) * 2

    def another(argument):
        doubled = jnp.sin(argument)
        return doubled * 2

    x = jnp.ones(3)
    first, second = (jax.jit(function).lower(x).compile() for function in (one, another))
    assert first.as_text() != second.as_text()
    assert hlo.equal(first, second) is True


@pytest.mark.parametrize("other", [lambda x: jnp.sin(x) * 3, lambda x: jnp.cos(x) * 2, lambda x: jnp.sin(x[:2]) * 2])
def test_other_operations_make_programs_differ(other):
    x = jnp.ones(3)
    first, second = (jax.jit(function).lower(x).compile() for function in (lambda x: jnp.sin(x) * 2, other))
    assert hlo.equal(first, second) is False


class GivesAFloat(nnx.Module):
    """A Python number among the outputs."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.linear(x), 0.0


class LeavesXUnused(nnx.Module):
    def __init__(self, *, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (4,)))

    def __call__(self, x):
        return self.kernel[...] * 2


@pytest.mark.slow
@pytest.mark.parametrize("layer", [GivesAFloat, LeavesXUnused])
def test_plain_numbers_and_unused_inputs_compare(layer):
    check = check_of(wrapped(layer))
    assert check.verdict is Verdict.passed
    assert check.detail.startswith("native: the same variables, output and gradient bit for bit; steady ")


class Closes(nnx.Module):
    """Holds a table where no tree finds it."""

    def __init__(self, *, rngs):
        table = self.table(rngs)
        self.function = lambda x: x * table
        self.scale = nnx.Param(jnp.ones(4))

    def table(self, rngs):
        return jnp.sin(1 + jnp.arange(4.0))

    def __call__(self, x):
        return self.function(x) * self.scale[...]


class ClosesOverDrawn(Closes):
    """Its table is drawn: natively once, by the bridge at every apply from key 0."""

    def table(self, rngs):
        return jax.random.normal(rngs.params(), (4,))


@pytest.mark.slow
def test_constructor_tables_are_kept():
    check = check_of(wrapped(Closes))
    assert check.verdict is Verdict.passed
    assert check.detail.startswith("native: the same variables, output and gradient bit for bit; steady ")


@pytest.mark.slow
def test_drawn_tables_break_native_parity():
    check = check_of(wrapped(ClosesOverDrawn))
    assert check.verdict is Verdict.fail
    assert check.detail.startswith("native: the same variables bit for bit; output differs in output by ")


class Gated(nnx.Module):
    """Keeps a function that reads one of its Params."""

    def __init__(self, *, rngs):
        alpha = self.alpha = nnx.Param(jnp.full((), 0.25))
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.act = lambda x: jnp.where(x > 0, x, alpha[...] * x)

    def __call__(self, x):
        return self.act(self.linear(x))


class Powered(Gated):
    """Keeps a function that reads a number."""

    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        power = 2
        self.act = lambda x: x**power * self.__class__.__name__.count("P")


def test_a_function_that_reads_its_modules_params_warns():
    check = check_of(subject_of(bridge.to_linen(Gated), jnp.ones((2, 4))))
    assert check.verdict is Verdict.warn
    assert check.detail.startswith("native: the same variables, output and gradient bit for bit; ")
    assert check.detail.endswith(
        "act holds Params of the module: right in Linen, and the old ones after nnx.merge, as in nnx.jit"
    )
    graph, state = nnx.split(Gated(rngs=nnx.Rngs(0)))
    merged = nnx.merge(graph, jax.tree.map(jnp.zeros_like, state))
    assert merged.act(-jnp.ones(())) == -0.25, "the old Param"
    assert "held_twice" not in check_of(subject_of(bridge.to_linen(Powered), jnp.ones((2, 4)))).evidence
