"""The layer in a Linen module: trees and names, the stack, a host of one's own, and what a wrong one is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from runner.arrays import trees
from runner.bridge import hosts
from runner.bridge.rngs import apply_keys, root_key
from runner.commands import main
from runner.errors import ConfigError, LayerError
from runner.experiment import execute
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.job import Job
from runner.experiment.program import compile_program
from runner.records import columns

HERE = __name__
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4)), jnp.float32)


class Sandwich(nn.Module):
    """A host of one's own."""

    layer: Callable[..., nn.Module]
    width: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width, param_dtype=self.param_dtype)(self.layer(name="mine")(x))


class InSetup(nn.Module):
    layer: Callable[..., nn.Module]

    def setup(self):
        self.inner = self.layer()

    def __call__(self, x):
        return self.inner(x)


class Twice(nnx.Module):
    """Takes a call argument."""

    def __init__(self, *, rngs):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x, *, times=1):
        return x * self.scale * times


@pytest.fixture(scope="module")
def model_of(make_run):
    """The model of these overrides and what it needs."""

    def make(*overrides):
        run = make_run(*overrides)
        drafted = make_draft(run, identity_of(run))
        return drafted.model, drafted.needs

    return make


def names(needs):
    return sorted("/".join(path[:-1]) for path, _ in trees.flatten(needs.variables["params"]) if path[-1] != "bias")


def shapes(tree):
    return {"/".join(path): leaf.shape for path, leaf in trees.flatten(tree)}


def init(model, needs, x=X):
    return model.init(root_key(0), needs.streams, x)


def apply(model, variables, x=X, keys=None):
    return model.apply(variables, keys or {}, (), x)[0]


# Names.


def test_named_layer_leaves_sibling_names_alone(model_of):
    _, needs = model_of("host=mlp", "input_shape=[2,4]")
    assert names(needs) == ["Dense_0", "Dense_2", "layer"]


def test_unnamed_layer_breaks_an_old_checkpoint(model_of):
    model, needs = model_of("host=mlp", "input_shape=[2,4]", "features=4", "host.layer_name=null")
    old = init(hosts.with_linen(model, nn.Dense(4)), needs)
    assert names(needs) == ["Dense_0", "Dense_1", "ToLinen_0"]
    assert sorted(old["params"]) == ["Dense_0", "Dense_1", "Dense_2"]
    # Taken without a word: the old middle block is now the last one, and the middle one is made up.
    answer = apply(model, old)
    assert not np.allclose(answer, apply(hosts.with_linen(model, nn.Dense(4)), old))


def test_old_layer_name_restores_old_checkpoints(model_of):
    model, needs = model_of("host=mlp", "input_shape=[2,4]", "features=4", "host.layer_name=Dense_1")
    linen = hosts.with_linen(model, nn.Dense(4))
    old = init(linen, needs)
    assert shapes(old) == shapes(needs.variables)
    assert np.array_equal(apply(model, old), apply(linen, old))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "layer", "left_out"),
    [
        ("attention", "multi_head_attention", "MultiHeadDotProductAttention_0"),
        ("mlp", "linear", "Dense_0"),
        ("norm", "layer_norm", "LayerNorm_0"),
    ],
)
def test_transformer_siblings_keep_their_names(place, layer, left_out, model_of):
    place = f"host.kwargs.place={place}"
    _, needs = model_of("host=transformer", f"layer={layer}", place, "input_shape=[6,8]")
    tops = {name.split("/")[0] for name in needs.variables["params"]}
    linen = {"LayerNorm_0", "LayerNorm_1", "MultiHeadDotProductAttention_0", "Dense_0", "Dense_1"}
    assert left_out not in tops
    assert tops - {"layer"} <= linen
    assert needs.output.shape == (6, 8)


def test_unnamed_layers_join_the_transformer_numbering(model_of):
    words = ("host=transformer", "host.layer_name=null", "host.kwargs.place=norm", "input_shape=[6,8]")
    _, needs = model_of(*words, "layer=layer_norm")
    assert {"ToLinen_0", "LayerNorm_0"} <= set(needs.variables["params"])
    assert "LayerNorm_1" not in needs.variables["params"]


# The stack.


@pytest.mark.slow
def test_scanned_stacks_have_separate_layer_weights(model_of):
    model, needs = model_of("host=scanned", "input_shape=[2,4]", "features=4", "host.kwargs.num_layers=3")
    kernel = init(model, needs)["params"]["layers"]["layer"]["kernel"]
    assert kernel.shape == (3, 4, 4)
    assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.slow
def test_scanned_stacks_apply_layers_in_sequence(model_of):
    model, needs = model_of("host=scanned", "input_shape=[2,4]", "features=4")
    variables = init(model, needs)
    expected = X
    for index in range(2):
        one = jax.tree.map(lambda leaf, at=index: leaf[at], variables["params"]["layers"]["layer"])
        expected = expected + expected @ one["kernel"] + one["bias"]
    np.testing.assert_allclose(apply(model, variables), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_scanned_stacks_split_masks_and_stats(model_of):
    _, needs = model_of("host=scanned", "input_shape=[2,4]", "layer=batch_norm")
    assert (needs.mutable, needs.variables["batch_stats"]["layers"]["layer"]["mean"].shape) == (
        ("batch_stats",),
        (2, 4),
    )
    ones = jnp.ones((1, 64))
    model, needs = model_of("host=scanned", "input_shape=[1,64]", "layer=dropout", "layer.kwargs.rate=0.5")
    y = apply(model, {}, ones, apply_keys(root_key(0), needs.streams))
    assert set(np.unique(y)) == {1, 3, 9}  # 1, 1 + 2, 3 + 6: with one mask for both there is no 3


# A host of one's own.


def test_dotted_path_hosts_get_their_fields(model_of):
    fields = ("host.kwargs.width=5", "host.kwargs.param_dtype=bfloat16")
    _, needs = model_of(f"host.target={HERE}.Sandwich", *fields, "input_shape=[2,4]")
    assert sorted(needs.variables["params"]) == ["Dense_0", "mine"]
    assert needs.variables["params"]["Dense_0"]["kernel"].dtype == jnp.bfloat16
    assert needs.output.shape == (2, 5)


def test_hosts_may_build_layers_in_setup(model_of):
    model, needs = model_of(f"host.target={HERE}.InSetup", "input_shape=[2,4]")
    assert sorted(needs.variables["params"]) == ["layer"]
    assert apply(model, init(model, needs)).shape == (2, 8)


def test_layer_call_arguments_work_in_hosts(model_of):
    words = (f"host.target={HERE}.InSetup", "layer=custom", f"layer.target={HERE}.Twice", "input_shape=[2,4]")
    model, needs = model_of(*words, "layer.call.times=3", "host.layer_name=null")
    variables = init(model, needs)
    assert sorted(variables["params"]) == ["inner"]
    np.testing.assert_array_equal(apply(model, variables), X * 3)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["host.target=flax.nnx.Linear"],
            "host.target=flax.nnx.Linear: the class Linear is no flax.linen.Module class.\n"
            "  Try: class MyHost(nn.Module): layer: Callable, and in its __call__ self.layer()(x)",
        ),
        (
            ["host.target=flax.linen.make_causal_mask"],
            "host.target=flax.linen.make_causal_mask: a function is no flax.linen.Module class.\n"
            "  Try: class MyHost(nn.Module): layer: Callable, and in its __call__ self.layer()(x)",
        ),
        (
            ["host.target=flax.linen.Dense"],
            "host.target=flax.linen.Dense: the class Dense has no field `layer` to put the layer.\n"
            "  Try: class MyHost(nn.Module): layer: Callable, and in its __call__ self.layer()(x)",
        ),
        (
            ["host.target=flax.linen.Denze"],
            "host.target=flax.linen.Denze: flax.linen has no Denze.\n  Try: host.target=flax.linen.Dense",
        ),
        (
            [f"host.target={HERE}.Sandwich"],
            f"host.target={HERE}.Sandwich: it also needs width.\n  Try: host.kwargs.width=32",
        ),
        (
            ["host=mlp", "host.kwargs.featurs=3"],
            "host.kwargs.featurs=3: MLPHost has the fields features, activation.\n  Try: host.kwargs.features=3",
        ),
        (
            [f"host.target={HERE}.InSetup", "host.kwargs.width=3"],
            "host.kwargs.width=3: InSetup has the fields layer only.\n  Try: ~host.kwargs.width",
        ),
        (
            ["host=mlp", "host.kwargs.activation=rellu"],
            "host.kwargs.activation=rellu: no such activation in jax.nn.\n  Try: host.kwargs.activation=relu",
        ),
        (
            ["host=mlp", "layer=embed"],
            "host mlp can't take x of shape [4] int32: it calculates with floating numbers.\n"
            "  Try: input=normal, or host=none",
        ),
        (
            ["host=transformer", "input_shape=[6,8]", "host.kwargs.place=nrm"],
            "host.kwargs.place=nrm: the layer's place is attention, mlp or norm.\n  Try: host.kwargs.place=norm",
        ),
        (
            ["host=transformer", "input_shape=[8]"],
            "host transformer can't take x of shape [8]: it wants [length, width].\n  Try: 'input_shape=[6,8]'",
        ),
        (
            ["host=transformer", "input_shape=[6,7]", "features=7"],
            "host transformer can't take x of shape [6,7]: its width is no multiple of 2 heads.\n"
            "  Try: host.kwargs.num_heads=1",
        ),
        (
            ["host=transformer", "input_shape=[6,8]", "features=4"],
            "host transformer with place=mlp: the layer gives [6,4] for x of [6,8], and the sum needs the same shape.\n"
            "  Try: features=8, or another layer",
        ),
        (
            ["host=scanned", "input_shape=[4]"],
            "host scanned: the layer gives [8] for x of [4], and the sum needs the same shape.\n"
            "  Try: features=4, or another layer",
        ),
        (
            ["host=scanned", "input_shape=[8]", "host.kwargs.num_layers=0"],
            "host.kwargs.num_layers=0: a stack has at least one layer.\n  Try: host.kwargs.num_layers=2",
        ),
    ],
)
def test_a_wrong_host_is_reported_clearly(words, message, model_of):
    with pytest.raises((ConfigError, LayerError)) as caught:
        model_of(*words)
    assert str(caught.value) == message


def test_a_wrong_host_exits_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["host=mlp", "layer=embed"]) == 2
    assert capsys.readouterr().err.startswith("error: host mlp can't take x of shape [4] int32")
    assert list(tmp_path.iterdir()) == []


def test_layer_errors_in_hosts_name_both(model_of):
    said = r"^layer linear in host mlp can't take x of shape \[2, 4\] float32: "
    with pytest.raises(LayerError, match=said) as caught:
        model_of("host=mlp", "input_shape=[2,4]", "layer.kwargs.in_features=5")
    assert caught.value.suggestion == "layer.kwargs.in_features=4"
    model_of("host=mlp", "input_shape=[2,4]", "layer.kwargs.in_features=4")


def test_host_name_clashes_suggest_another_name(model_of):
    with pytest.raises(LayerError, match='NameInUseError: Could not create submodule "Dense_0"') as caught:
        model_of("host=mlp", "input_shape=[2,4]", "host.layer_name=Dense_0")
    assert caught.value.suggestion == "host.layer_name=layer"


def test_linen_twins_need_a_host(model_of):
    model, _ = model_of()
    with pytest.raises(
        LayerError, match=r"^a pipeline without a host has no place for a Linen twin\.\n  Try: host=mlp"
    ):
        hosts.with_linen(model, nn.Dense(8))


# A run.


def test_hosts_change_the_program_id(make_run):
    plain, hosted = identity_of(make_run()), identity_of(make_run("host=mlp"))
    assert plain.program_id != hosted.program_id
    assert identity_of(make_run("host.name=mine", "host.layer_name=x")) == plain
    assert identity_of(make_run("host=mlp", "host.name=mine")) == hosted
    assert identity_of(make_run("host=mlp", "host.layer_name=Dense_1")).program_id != hosted.program_id


@pytest.mark.slow
def test_hosts_are_recorded_with_their_runs(make_run):
    run = make_run("host=mlp", "input_shape=[2,4]", "timing=off")
    identity = identity_of(run)
    program = compile_program(make_draft(run, identity))
    record = execute.execute(Job(run=run, identity=identity), program).record
    assert (record.error, record.layer, record.host) == (None, "linear", "mlp")
    assert columns.results_row(record)["host"] == "mlp"
    assert {check.name: check.verdict.value for check in record.checks if check.verdict.value == "fail"} == {}


# The other way round.


@pytest.mark.slow
def test_linen_inside_nnx_has_gradients(model_of):
    model, needs = model_of("layer=linen_inside", "input_shape=[2,4]")
    variables = init(model, needs)
    assert shapes(variables["params"]) == {
        "dense/bias": (16,),
        "dense/kernel": (4, 16),
        "linear/bias": (8,),
        "linear/kernel": (16, 8),
    }
    grads = jax.grad(lambda given: (apply(model, given) ** 2).sum())(variables)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))


# Calls.


@pytest.mark.parametrize("train", [True, False])
def test_a_host_gets_its_own_call_arguments(train, model_of):
    typed = ["host.target=linen_classes.Modes", f"host.call.train={str(train).lower()}", "features=4"]
    _, needs = model_of(*typed, "input_shape=[2,4]")
    assert sorted(needs.variables["params"]) == (["Dense_0", "layer"] if train else ["layer"])


def test_hosts_draw_keys_of_their_call(model_of):
    typed = ["host.target=linen_classes.Modes", "host.call.train=false", "features=4", "input_shape=[2,4]"]
    model, needs = model_of(*typed, "host.call.key={_rng_:noise}", "host.call.shift=[1,2,3,4]")
    assert needs.streams == ("params", "noise")
    variables = init(model, needs)
    one, two = (apply(model, variables, keys=apply_keys(root_key(seed), needs.streams)) for seed in (0, 1))
    assert not np.allclose(one, two)
    assert shapes(variables) == shapes(model_of(*typed)[1].variables)


class Calls(nn.Module):
    """Calls the layer in one of the ways that Linen code has."""

    layer: Callable[..., Any]
    way: str = "made"

    @nn.compact
    def __call__(self, x):
        ways = {
            "made": lambda: self.layer()(x),
            "called": lambda: self.layer(x),
            "named": lambda: self.layer(x, name="layer"),
            "keyword": lambda: self.layer(inputs=x),
            "placed": lambda: self.layer("layer")(x),
        }
        return ways[self.way]()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["called", "named", "keyword", "placed"])
def test_layers_may_be_called_when_made(way, model_of):
    typed = [f"host.target={HERE}.Calls", "input_shape=[2,4]"]
    (one, needs), (two, _) = model_of(*typed), model_of(*typed, f"host.kwargs.way={way}")
    variables = init(one, needs)
    assert np.array_equal(apply(one, variables), apply(two, variables))
    assert shapes(init(two, needs)) == shapes(variables)


def test_hostless_call_arguments_reach_the_layer(make_run):
    with pytest.raises(ConfigError) as refused:
        make_run("layer=linear", "host.call.train=true")
    suggested = "the same without it, or layer.call.train=true if it is the layer that takes train"
    assert str(refused.value) == f"host.call.train=true: there is no host that gets it.\n  Try: {suggested}"
