"""Check 1, complete, and the comparison of trees under it: every way in which variables are not those of init."""

from __future__ import annotations

import dataclasses
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common_layers import COMMON
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge as nnx_bridge

from runner.arrays import checkpoint, tree_moves, trees
from runner.arrays.tree_diff import Kind, LeafDiff, diff_trees
from runner.checks import complete
from runner.checks.probes.subject import subject_of
from runner.config.composing.composed import Config
from runner.experiment import execute as experiment_execute
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.job import Job
from runner.records.record import FailureKind, Status, Verdict
from runner.sweep import validate

QUICK = ("timing=off", "checks.eager=never")
LAYERS = COMMON
K1 = jax.random.key(7)
X = jnp.arange(16.0).reshape(2, 8)
LINEAR = nnx_bridge.to_linen(nnx.Linear, 8, 8)
OTHER = {"params": {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}}

MERGE = """from flax.traverse_util import flatten_dict, unflatten_dict
given = flatten_dict(variables)
fresh = flatten_dict(model.init({'params': k1}, x))
fits = [p for p, leaf in fresh.items() if p in given and given[p].shape == leaf.shape]
kept = {p: given[p].astype(fresh[p].dtype) for p in fits}
variables = unflatten_dict({**fresh, **kept})  # what is not kept is init's, and still to be trained"""
MOVE = """from flax.traverse_util import flatten_dict, unflatten_dict
given = flatten_dict(variables)
for old, new in {('weights',): ('params',)}.items():
    given = {new + p[len(old):] if p[: len(old)] == old else p: leaf for p, leaf in given.items()}
variables = unflatten_dict(given)"""
NAMES = """# in the host; a name for the first alone would raise NameInUseError:
bridge.to_linen(…, name='Dense_1')  # what is ToLinen_0
Dense(…, name='Dense_2')  # what is Dense_1"""


class Old(nn.Module):
    """What a checkpoint was made with: the layer called last is made, and so named, first."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(nn.Dense(8)(nn.Dense(8)(x)))


class Steps(nn.Module):
    """The same, made in the order of the calls."""

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.Dense(8)(x)
        return x


class New(nn.Module):
    """The second layer is an NNX one now."""

    names: tuple[tuple[str, str], ...] = ()

    @nn.compact
    def __call__(self, x):
        named = dict(self.names)
        x = nn.Dense(8)(x)
        x = nnx_bridge.to_linen(nnx.Linear, 8, 8, name=named.get("ToLinen_0"))(x)
        return nn.Dense(8, name=named.get("Dense_1"))(x)


class NewInside(nn.Module):
    """Its middle layer is an NNX one, and what is called last is made first."""

    names: tuple[tuple[str, str], ...] = ()

    @nn.compact
    def __call__(self, x):
        named = dict(self.names)
        return nn.Dense(8)(
            nnx_bridge.to_linen(nnx.Linear, 8, 8, name=named.get("ToLinen_0"))(
                nn.Dense(8, name=named.get("Dense_1"))(x)
            )
        )


class Outer(nn.Module):
    inner: type[nn.Module]

    @nn.compact
    def __call__(self, x):
        return self.inner(name="body")(x)


class Mixed(nn.Module):
    """Layers of two classes, one of each wrapped."""

    wrapped: bool

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Dense(8)(x))
        x = nnx_bridge.to_linen(nnx.Linear, 8, 8)(x) if self.wrapped else nn.Dense(8)(x)
        x = nnx_bridge.to_linen(nnx.LayerNorm, 8)(x) if self.wrapped else nn.LayerNorm()(x)
        return nn.LayerNorm()(nn.Dense(8)(x))


class Sows(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(8)(x)
        self.sow("losses", "norm", y.sum())
        return y


def judge(model, variables, *, x=X, full=False):
    return complete.check(subject_of(model, x, variables=variables), full=full)


def fixed(check, *, model, variables):
    scope = {"model": model, "variables": variables, "x": X, "k1": K1}
    exec(check.fix, scope)
    return scope["variables"]


def tree(**leaves):
    return {"params": {path.replace("__", "/"): np.zeros(shape, np.float32) for path, shape in leaves.items()}}


# The check.


def test_a_compiled_init_that_makes_less_fails():
    subject = subject_of(LINEAR, X)
    made = {"params": {"kernel": subject.init_variables["params"]["kernel"]}}
    compiled = dataclasses.replace(subject, compiled_init=lambda key, x: made)
    assert complete.check(compiled, full=False).verdict is Verdict.passed
    check = complete.check(compiled, full=True)
    assert (check.verdict, check.evidence["missing"]) == (Verdict.fail, ["params/bias"])


def test_what_init_makes_is_complete():
    assert judge(LINEAR, None).detail == "all 2 leaves are as init makes them"
    assert judge(LINEAR, OTHER).verdict is Verdict.passed
    assert judge(nnx_bridge.to_linen(nnx.RMSNorm, 8), None).detail == "the leaf is as init makes it"
    assert judge(nnx_bridge.to_linen(nnx.Dropout, 0.5, deterministic=True), None).detail == "the layer has no variables"


@pytest.mark.sampled
@pytest.mark.parametrize("name", LAYERS)
def test_traced_conf_layers_are_complete(make_run, name):
    run = make_run(f"layer={name}")
    assert (
        complete.check(experiment_execute.subject(make_draft(run, identity_of(run)), run), full=False).verdict
        is Verdict.passed
    )


def test_full_check_compares_a_compiled_init():
    assert judge(LINEAR, None, full=True).detail == "all 2 leaves are as init makes them"


def test_no_variables_at_all_are_missing():
    check = judge(LINEAR, {})
    assert (check.verdict, check.fix) == (Verdict.fail, MERGE)
    assert check.detail == "of the 2 leaves that init makes, 2 are missing: params/bias, params/kernel"
    assert check.evidence == {"num_leaves": 2, "missing": ["params/bias", "params/kernel"]}
    assert subject_of(LINEAR, X, variables=fixed(check, model=LINEAR, variables={})).differences == []


def test_missing_leaves_name_the_nearest_path():
    given = {"params": {"kernel": jnp.ones((8, 8)), "biases": jnp.ones(8)}}
    check = judge(LINEAR, given)
    assert check.detail == (
        "of the 2 leaves that init makes, 1 is missing: params/bias (given: params/biases); "
        "1 leaf is given that init does not make: params/biases (wanted: params/bias)"
    )
    after = fixed(check, model=LINEAR, variables=given)
    np.testing.assert_array_equal(after["params"]["kernel"], 1)
    assert subject_of(LINEAR, X, variables=after).differences == []


def test_misshapen_leaves_are_initialised_again():
    given = {"params": {"kernel": jnp.ones((8, 5)), "bias": jnp.ones(5)}}
    assert LINEAR.apply(given, X).shape == (2, 5)
    assert fixed(judge(LINEAR, given), model=LINEAR, variables=given)["params"]["kernel"].shape == (8, 8)


def test_renamed_collections_are_moved():
    given = {"weights": OTHER["params"]}
    check = judge(LINEAR, given)
    assert check.fix == MOVE
    assert fixed(check, model=LINEAR, variables=given) == OTHER


def test_another_dtype_is_said_and_cast():
    given = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), OTHER)
    check = judge(LINEAR, given)
    assert check.detail.endswith(
        "2 are of another dtype: params/bias (got bfloat16[8], wanted float32[8]), "
        "params/kernel (got bfloat16[8,8], wanted float32[8,8])"
    )
    assert subject_of(LINEAR, X, variables=fixed(check, model=LINEAR, variables=given)).differences == []


def test_of_many_leaves_five_are_named():
    subject = subject_of(nnx_bridge.to_linen(nnx.MultiHeadAttention, 2, 8, decode=False), X, variables={})
    assert complete.check(subject, full=False).detail == (
        "of the 8 leaves that init makes, 8 are missing: params/key/bias, params/key/kernel, params/out/bias, "
        "params/out/kernel, params/query/bias and 3 more"
    )


@pytest.mark.slow
def test_sown_collections_may_be_missing():
    variables = Sows().init(K1, X)
    assert set(variables) == {"params", "losses"}
    assert judge(Sows(), {"params": variables["params"]}).verdict is Verdict.passed
    assert judge(Sows(), variables).verdict is Verdict.passed


def test_metadata_boxes_do_not_count():
    boxed = nnx_bridge.to_linen(nnx.Linear, 8, 8, bias_init=nnx.with_metadata(nnx.initializers.zeros, note="b"))
    assert type(boxed.init(K1, X)["params"]["bias"]).__name__ == "NNXMeta"
    assert judge(boxed, OTHER).verdict is Verdict.passed


# Names that Linen gives.


@pytest.mark.parametrize(("before", "after"), [(Steps, New), (Old, NewInside)])
def test_renamed_siblings_regain_names_and_bits(before, after):
    variables = before().init(K1, X)
    check = judge(after(), variables)
    assert (check.verdict, check.fix) == (Verdict.fail, NAMES)
    assert check.evidence["names"] == {"ToLinen_0": "Dense_1", "Dense_1": "Dense_2"}
    old = before().apply(variables, X)
    assert not np.array_equal(after().apply(variables, X), old)
    names = tuple((new, name) for name, new in re.findall(r"name='(\w+)'\)  # what is (\w+)", check.fix))
    np.testing.assert_array_equal(after(names).apply(variables, X), old)
    assert judge(after(names), variables).verdict is Verdict.passed


def test_naming_only_one_sibling_raises():
    with pytest.raises(flax.errors.NameInUseError):
        New((("ToLinen_0", "Dense_1"),)).init(K1, X)


def test_nested_renamed_siblings_are_found():
    check = judge(Outer(New), Outer(Steps).init(K1, X))
    assert check.detail.endswith("what was body/Dense_1 is body/ToLinen_0, what was body/Dense_2 is body/Dense_1")
    assert check.fix == (
        "# in the host; a name for the first alone would raise NameInUseError:\n"
        "bridge.to_linen(…, name='Dense_1')  # what is ToLinen_0 in body\n"
        "Dense(…, name='Dense_2')  # what is Dense_1 in body"
    )


def test_renamed_siblings_keep_to_their_class():
    check = judge(Mixed(True), Mixed(False).init(K1, X))
    assert check.evidence["names"] == {
        "ToLinen_0": "Dense_1",
        "ToLinen_1": "LayerNorm_1",
        "Dense_1": "Dense_2",
        "LayerNorm_1": "LayerNorm_2",
    }


def test_unrelated_mismatches_are_no_renames():
    variables = {"params": {**Steps().init(K1, X)["params"], "head": {"kernel": jnp.ones((3, 3))}}}
    check = judge(New(), variables)
    assert "names" not in check.evidence
    assert check.fix.splitlines()[2] == "for old, new in {('params', 'Dense_2'): ('params', 'ToLinen_0')}.items():"


# The comparison.


def compare(given, wanted) -> list[LeafDiff]:
    return diff_trees(given, wanted, moves=tree_moves.likely).changed


def test_key_spelling_makes_no_difference():
    ints = {"params": {0: {"kernel": np.zeros(3)}, 1: {"kernel": np.zeros(3)}}}
    texts = {"params": {"0": {"kernel": np.zeros(3)}, "1": {"kernel": np.zeros(3)}}}
    assert compare(texts, ints) == compare(ints, texts) == []


def test_mismatches_show_given_and_wanted():
    assert compare(tree(kernel=(3, 4)), tree(kernel=(4, 4))) == [
        LeafDiff(
            kind=Kind.reshaped, old="params/kernel", new="params/kernel", was="float32[3,4]", wanted="float32[4,4]"
        )
    ]
    assert compare({"params": {"kernel": np.zeros(3, np.int8)}}, tree(kernel=(3,)))[0].kind is Kind.cast


def test_modules_move_as_a_whole():
    given = {"params": {"a": tree(bias=2, kernel=(2, 2))["params"], "b": tree(bias=2, kernel=(3, 2))["params"]}}
    wanted = {"params": {"c": tree(bias=2, kernel=(3, 2))["params"]}}
    moved = {one.path: one.old for one in compare(given, wanted) if one.kind is Kind.moved}
    assert moved == {"params/c/bias": "params/b/bias", "params/c/kernel": "params/b/kernel"}


def test_part_of_a_module_can_move():
    given = {"params": {"a": tree(bias=2, kernel=(2, 2))["params"]}}
    wanted = {"params": {"c": tree(kernel=(2, 2))["params"]}}
    assert [(one.kind, one.path, one.old) for one in compare(given, wanted)] == [
        (Kind.extra, "params/a/bias", "params/a/bias"),
        (Kind.moved, "params/c/kernel", "params/a/kernel"),
    ]


def test_numbers_in_names_sort_as_numbers():
    def layers(name):
        return {"params": {f"{name}_{num}": tree(kernel=(2,))["params"] for num in range(12)}}

    assert [one.old for one in compare(layers("a"), layers("b"))] == [f"params/a_{num}/kernel" for num in range(12)]


# Runs that start from a checkpoint.


def saved(tmp_path, variables):
    checkpoint.save(jax.tree.map(np.asarray, variables), tmp_path / "checkpoint")
    return f"variables={tmp_path / 'checkpoint'}"


def execute(run):
    """The result of `run` as a sweep would get it, refused or not."""
    (identity,), drafts = validate.validate([Config(run=run)])
    job = Job(run=run, identity=identity, compare_eager=False)
    try:
        program = experiment_execute.prepare(drafts[identity.program_id, run.device], run)
    except Exception as error:  # noqa: BLE001 - as a sweep does
        return experiment_execute.failed(job, error)
    return experiment_execute.execute(job, program)


LINEAR_VARIABLES = {"params": {"kernel": np.ones((4, 8), np.float32), "bias": np.ones(8, np.float32)}}
LACKING = {"params": {"kernel": LINEAR_VARIABLES["params"]["kernel"]}}
WRONG = {"params": {"kernel": np.ones((4, 5), np.float32), "bias": np.ones(5, np.float32)}}
LACKING_DETAIL = "of the 2 leaves that init makes, 1 is missing: params/bias"
WRONG_DETAIL = (
    "of the 2 leaves that init makes, 2 are misshapen: params/bias (got float32[5], wanted float32[8]), "
    "params/kernel (got float32[4,5], wanted float32[4,8])"
)


@pytest.mark.slow
@pytest.mark.parametrize(("variables", "detail"), [(LACKING, LACKING_DETAIL), (WRONG, WRONG_DETAIL)])
def test_strict_runs_refuse_incomplete_checkpoints(make_run, tmp_path, variables, detail):
    record = execute(make_run(*QUICK, saved(tmp_path, variables))).record
    assert record.error is not None
    assert (record.status, record.error.kind) == (Status.failed, FailureKind.check)
    assert record.error.message == f"complete: {detail}"
    assert {check.name: check.verdict for check in record.checks}["complete"] is Verdict.fail


def test_warn_mode_accepts_an_incomplete_checkpoint(make_run, tmp_path):
    result = execute(make_run(*QUICK, "checks=warn", saved(tmp_path, LACKING)))
    assert (result.record.status, result.record.error) == (Status.done, None)
    assert next(check for check in result.record.checks if check.name == "complete").detail == LACKING_DETAIL
    assert result.output[""].shape == (8,)


@pytest.mark.slow
def test_checkpoints_override_the_seed(make_run, tmp_path):
    three = execute(make_run(*QUICK, "seed=3"))
    given = execute(make_run(*QUICK, "seed=4", saved(tmp_path, three.variables)))
    assert given.record.error is None
    assert trees.array_digest(given.output[""]) == trees.array_digest(three.output[""])
    assert trees.array_digest(execute(make_run(*QUICK, "seed=4")).output[""]) != given.record.output[0].digest


@pytest.mark.slow
def test_integer_keys_survive_a_checkpoint(make_run, tmp_path):
    run = make_run(*QUICK, "layer=sequential")
    given = execute(make_run(*QUICK, "layer=sequential", "seed=9", saved(tmp_path, execute(run).variables)))
    assert given.record.error is None
    assert given.record.output[0].digest == execute(run).record.output[0].digest
