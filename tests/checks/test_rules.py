"""The check `rules`: what a pipeline's rules and masks by path do with a layer's leaves."""

from __future__ import annotations

import contextlib

import jax.numpy as jnp
import pytest
from flax import nnx
from flax.nnx import bridge
from jax.sharding import PartitionSpec as P
from ruled_layers import INIT, LAYERS, Attributes, Net, kernels, matrices, partition_rules

import runner
from runner.checks.pipeline.partition import WITHOUT_BOX
from runner.checks.pipeline.rules import WITH_NAMES, is_asked
from runner.checks.probes.subject import subject_of
from runner.config.composing.composed import Config
from runner.config.settings import rules as rules_settings
from runner.experiment import execute
from runner.experiment.failures import CheckFailed
from runner.records.record import Verdict
from runner.sweep import validate

X = jnp.ones((2, 4))
KERNELS = {"weight_decay": [(".*/kernel$", 1.0)], "match": "fullmatch"}
EVERY = [(".*", P())]


def check_of(model, rules):
    return runner.check(model, X, rules=rules, only=["rules"])["rules"]


def more_of(check):
    """The rules that a fix says."""
    return eval(f"[{check.fix}\n]", {"PartitionSpec": P})


def alone(name):
    return bridge.to_linen(LAYERS[name], 4)


def test_without_rules_nothing_is_asked():
    assert not is_asked(subject_of(alone("Known"), X))
    asked = runner.check(alone("Known"), X, only=["rules"])["rules"]
    assert (asked.verdict, asked.detail) == (Verdict.skipped, "no rules are given: rules=FILE or pkg.mod:function()")


def test_a_leaf_that_meets_no_rule_fails():
    check = check_of(Net("Renamed"), partition_rules(catch_all=False))
    assert check.verdict is Verdict.fail
    assert check.detail == "params/ff/w_in, params/ff/w_out meet no rule, for which EasyLM raises an error"
    more = more_of(check)
    assert check_of(Net("Renamed"), [*more, *partition_rules(catch_all=False)]).verdict is Verdict.passed


def test_leaves_by_known_names_pass():
    check = check_of(Net("Known"), partition_rules(catch_all=False))
    assert (check.verdict, check.detail) == (Verdict.passed, "each of 6 leaves meets a partition rule")
    assert check.evidence["partition"]["params/ff/up/kernel"] == "'ff/up/kernel': P('fsdp', 'mp')"


def test_catch_all_leaves_are_named():
    check = check_of(Net("Renamed"), partition_rules())
    assert check.verdict is Verdict.passed
    assert "(params/ff/w_in, params/ff/w_out of the layer only the catch-all '.*': P(None))" in check.detail


def test_specs_of_too_many_axes_fail():
    rules = [("bias", P("fsdp", "mp")), *EVERY]
    check = check_of(alone("Attributes"), rules)
    assert check.verdict is Verdict.fail
    assert check.detail.startswith(
        "params/layers_0/bias, params/layers_1/bias have 1 axis, and the rule 'bias': P('fsdp', 'mp') is for 2"
    )
    assert check_of(alone("Attributes"), [*more_of(check), *rules]).verdict is Verdict.passed


def test_inner_boxes_hide_their_leaf():
    rules = {"partition": [(".*/kernel", P("fsdp", "mp")), *EVERY], "match": "fullmatch"}
    with nnx.use_eager_sharding(False):
        check = check_of(Net("Named"), rules)
    assert (check.verdict, check.fix) == (Verdict.warn, WITHOUT_BOX)


def test_scalars_meet_no_rule_and_need_none():
    check = check_of(alone("Known"), [("kernel|bias", P(None))])
    assert (check.verdict, "params/scale" in check.evidence["partition"]) == (Verdict.passed, False)


def test_boxes_hide_leaves_from_fullmatch_rules():
    rules = {"partition": [(".*/kernel", P("fsdp", "mp")), *EVERY], "match": "fullmatch"}
    model = bridge.to_linen(nnx.Linear, 4, 4, kernel_init=nnx.with_partitioning(INIT, ("embed", "mlp")))
    with nnx.use_eager_sharding(False):
        check = check_of(model, rules)
        assert check.verdict is Verdict.warn
        assert check.detail == (
            "params/kernel/value meets only the catch-all '.*': P(), where without its box meets '.*/kernel': "
            "P('fsdp', 'mp')"
        )
        assert check_of(model.clone(metadata_fn=None), rules).verdict is Verdict.passed


def test_matrices_without_weight_decay_are_counted():
    check = check_of(Net("Mixed"), KERNELS)
    assert check.verdict is Verdict.warn
    assert check.detail == "2 of 4 matrices of the new layer get no weight decay: params/ff/w_in, params/ff/w_out"
    more = more_of(check)
    assert (
        check_of(Net("Mixed"), {**KERNELS, "weight_decay": [*KERNELS["weight_decay"], *more]}).verdict is Verdict.passed
    )


@pytest.mark.parametrize("name", ["Known", "Attributes", "Normed"])
def test_layers_by_names_of_the_mask_pass(name):
    assert check_of(alone(name), KERNELS).verdict is Verdict.passed
    assert check_of(Net(name), KERNELS).verdict is Verdict.passed


def test_a_matrix_missing_in_its_twin_passes():
    embed = bridge.to_linen(nnx.Embed, 8, 4)
    tokens = jnp.zeros((2,), jnp.int32)
    assert runner.check(embed, tokens, rules=KERNELS, only=["rules"])["rules"].verdict is Verdict.passed


def test_module_masks_miss_other_names():
    mask = {"weight_decay": [("up/kernel", 1.0), ("down/kernel", 1.0)]}
    assert check_of(Net("Known"), mask).verdict is Verdict.passed
    assert check_of(Net("Attributes"), mask).detail.startswith("2 of 2 matrices of the new layer get no weight decay")


def test_biases_of_heads_are_no_matrices():
    heads = bridge.ToLinen(lambda **rngs: nnx.MultiHeadAttention(2, in_features=4, decode=False, **rngs))
    check = runner.check(heads, jnp.ones((2, 3, 4)), rules=KERNELS, only=["rules"])["rules"]
    assert (check.verdict, check.detail) == (Verdict.passed, "4 of 8 leaves get weight decay")


def test_a_rule_may_exclude_a_matrix():
    mask = {"weight_decay": [("w_(in|out)", 0.0), (".*", 1.0)]}
    assert check_of(Net("Mixed"), mask).verdict is Verdict.passed


def test_vectors_of_a_scan_are_no_matrices():
    check = check_of(Net("Attributes", scan=True), KERNELS)
    assert (check.verdict, check.detail) == (Verdict.passed, "3 of 6 leaves get weight decay")


def test_boxed_matrices_should_be_unboxed():
    with nnx.use_eager_sharding(False):
        check = check_of(Net("Named"), KERNELS)
    assert check.detail == "1 of 1 matrix of the new layer gets no weight decay: params/ff/up/kernel/value"
    assert check.fix == "bridge.to_linen(…, metadata_fn=None)  # without the box, which adds /value to the path"


def test_mask_functions_are_called():
    check = check_of(Net("Mixed"), {"weight_decay": kernels})
    assert check.detail.startswith("2 of 4 matrices of the new layer get no weight decay")
    assert check_of(Net("Mixed"), {"weight_decay": matrices}).verdict is Verdict.passed


def test_freezing_by_catch_all_warns():
    schedule = [("head/.*", {"lr": 1.0}), (".*", None)]
    check = check_of(Net("Renamed"), {"freeze": schedule})
    assert check.verdict is Verdict.warn
    assert check.detail.startswith("params/ff/w_in, params/ff/w_out are frozen by the catch-all '.*' alone")
    more = more_of(check)
    assert check_of(Net("Renamed"), {"freeze": [*more, *schedule]}).verdict is Verdict.passed


def test_an_explicit_freeze_passes():
    check = check_of(Net("Renamed"), {"freeze": [("ff/.*", True)]})
    assert (check.verdict, check.detail) == (Verdict.passed, "2 of 4 leaves are frozen")


@pytest.mark.parametrize("rules", [EVERY, KERNELS, {"weight_decay": kernels}])
def test_integer_keys_fail_where_rules_are_given(rules):
    check = check_of(Net("Listed"), rules)
    assert (check.verdict, check.fix) == (Verdict.fail, WITH_NAMES)
    assert "TypeError" in check.detail
    assert check_of(Net("Attributes"), rules).verdict is Verdict.passed


def test_rules_written_for_numbers_take_integer_keys():
    rules = [(r"parts/\d+/kernel", P("fsdp", "mp")), *EVERY]
    assert check_of(Net("Listed"), rules).verdict is Verdict.passed


def test_nameless_masks_take_integer_keys():
    assert check_of(Net("Listed"), {"weight_decay": matrices}).verdict is Verdict.passed


def test_integer_keys_are_fixed_by_a_layer():
    layer = nnx.eval_shape(lambda: Attributes(4, rngs=nnx.Rngs(0)))
    assert [*nnx.to_pure_dict(nnx.state(layer, nnx.Param))] == ["layers_0", "layers_1"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "passes"), [("Listed", False), ("Attributes", True)])
def test_strict_runs_refuse_unruled_trees(make_run, name, passes):
    words = ["layer=custom", f"layer.target=ruled_layers.{name}", "layer.kwargs.width=4"]
    words += ["rules=ruled_layers.partition_rules"]
    run = make_run(*rules_settings.as_overrides(words))
    _, drafts = validate.validate([Config(run=run)])
    (draft,) = drafts.values()
    with contextlib.nullcontext() if passes else pytest.raises(CheckFailed, match="keys that are no strings"):
        assert "rules" in [check.name for check in execute.run_checks(draft, run)]
