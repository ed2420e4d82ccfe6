"""The Linen layer that an NNX layer stands for: the same tree, the same bits, mostly the same program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge

from runner.arrays import closeness, trees
from runner.bridge import rngs, twins
from runner.bridge.needs import find_needs
from runner.bridge.wrap import Bridged
from runner.checks.programs import hlo

BFLOAT16 = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
WIDE = (2, 6, 8)
CONV = {"in_features": 8, "out_features": 4, "kernel_size": (3,)}
ATTENTION = {"num_heads": 2, "in_features": 8}
LAYERS = [
    (nnx.Linear, {"in_features": 8, "out_features": 3}, {}),
    (nnx.Linear, {"in_features": 8, "out_features": 3, "use_bias": False, **BFLOAT16}, {}),
    (nnx.LinearGeneral, {"in_features": (6, 8), "out_features": (3, 2), "axis": (-2, -1)}, {}),
    (nnx.LinearGeneral, {"in_features": 8, "out_features": 3, "batch_axis": {0: 2}, "use_bias": False}, {}),
    (nnx.Einsum, {"einsum_str": "btd,dhk->bthk", "kernel_shape": (8, 2, 3), "bias_shape": (2, 3)}, {}),
    (nnx.Einsum, {"einsum_str": "btd,dh->bth", "kernel_shape": (8, 3), **BFLOAT16}, {}),
    (nnx.Conv, {**CONV, "padding": "VALID", "kernel_dilation": 2}, {}),
    (nnx.Conv, {**CONV, "strides": 2, "feature_group_count": 4, "padding": "CIRCULAR", "use_bias": False}, {}),
    (nnx.ConvTranspose, CONV, {}),
    (nnx.ConvTranspose, {**CONV, "strides": (2,), "transpose_kernel": True, "use_bias": False}, {}),
    (nnx.Embed, {"num_embeddings": 5, "features": 3}, {}),
    (nnx.Embed, {"num_embeddings": 5, "features": 3, "dtype": jnp.bfloat16}, {}),
    (nnx.MultiHeadAttention, {**ATTENTION, "decode": False}, {}),
    (
        nnx.MultiHeadAttention,
        {**ATTENTION, "qkv_features": 4, "out_features": 6, "use_bias": False, "decode": False},
        {},
    ),
    (nnx.MultiHeadAttention, {**ATTENTION, "normalize_qk": True, "decode": False}, {}),
    (nnx.MultiHeadAttention, {**ATTENTION, "dropout_rate": 0.5, "decode": False}, {"deterministic": True}),
    (nnx.LayerNorm, {"num_features": 8}, {}),
    (nnx.LayerNorm, {"num_features": 8, "epsilon": 1e-2, "use_bias": False, "param_dtype": jnp.bfloat16}, {}),
    (nnx.RMSNorm, {"num_features": 8}, {}),
    (nnx.RMSNorm, {"num_features": 8, "use_scale": False, "epsilon": 0.1}, {}),
    (nnx.GroupNorm, {"num_features": 8, "num_groups": 4}, {}),
    (nnx.GroupNorm, {"num_features": 8, "num_groups": None, "group_size": 4, "use_fast_variance": False}, {}),
    (nnx.InstanceNorm, {"num_features": 8}, {}),
    (nnx.InstanceNorm, {"num_features": 8, "use_scale": False, "param_dtype": jnp.bfloat16}, {}),
    (nnx.BatchNorm, {"num_features": 8}, {}),
    (nnx.BatchNorm, {"num_features": 8, "momentum": 0.5, "use_bias": False}, {"use_running_average": True}),
    (nnx.PReLU, {}, {}),
    (nnx.PReLU, {"negative_slope_init": 0.3, "param_dtype": jnp.bfloat16}, {}),
]


NORMS = (nnx.LayerNorm, nnx.RMSNorm, nnx.InstanceNorm, nnx.BatchNorm)


def wrapped(nnx_class, kwargs, call):
    model = bridge.ToLinen(nnx_class, kwargs=nn.FrozenDict(kwargs), skip_rng=nnx_class is nnx.PReLU)
    return Bridged(model=model, call=call)


def values(shapes):
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.uniform(0.1, 1, leaf.shape), leaf.dtype), shapes)


def compiled(layer, needs, variables, x):
    keys = rngs.apply_keys(jax.random.key(0), needs.streams)
    return jax.jit(lambda v, k, x: layer.apply(v, k, needs.mutable, x)).lower(variables, keys, x).compile(), keys


@pytest.fixture(scope="module", params=LAYERS, ids=lambda one: f"{one[0].__name__}-{'-'.join(map(str, one[1]))}")
def pair(request):
    """A wrapped layer and its twin on the same variables: needs and compiled apply of each, with their arguments."""
    nnx_class, kwargs, call = request.param
    layer, twin = wrapped(nnx_class, kwargs, call), twins.twin_of(nnx_class, kwargs, call)
    assert twin.why == ""
    x = jnp.asarray(np.random.default_rng(1).standard_normal(WIDE), jnp.float32)
    x = jnp.arange(4) if nnx_class is nnx.Embed else x
    both = [find_needs(one, x, "it") for one in (layer, twin.layer)]
    variables = values(both[0].variables)
    program, keys = compiled(layer, both[0], variables, x)
    theirs, _ = compiled(twin.layer, both[0], variables, x)
    # Without dropout NNX's attention is `jax.nn.dot_product_attention`, and Linen's its own.
    another_program = nnx_class is nnx.MultiHeadAttention and not kwargs.get("dropout_rate")
    # It scales the logits where Linen scales the query: the same bits where 1 / sqrt(head_dim) is a power of two.
    exact = not another_program or kwargs.get("qkv_features", kwargs["in_features"]) / kwargs["num_heads"] == 4
    return both, (program, theirs), (variables, keys, x), (another_program, exact)


def test_there_are_thirteen_twins():
    assert {one for one, _, _ in LAYERS} == twins.TWINS.keys()
    assert len(twins.TWINS) == 13


def test_a_twin_has_the_same_tree(pair):
    (ours, theirs), _, _, _ = pair
    assert trees.flatten(ours.variables) == trees.flatten(theirs.variables)
    assert (ours.output, ours.mutable) == (theirs.output, theirs.mutable)


def test_twins_with_exact_scale_match_bitwise(pair):
    _, programs, arguments, (_, exact) = pair
    one, two = (trees.named_arrays(program(*arguments)) for program in programs)
    if not exact:
        np.testing.assert_allclose(one["0"], two["0"], rtol=1e-5, atol=1e-6)
        assert closeness.differences(one, two)
    else:
        assert closeness.differences(one, two) == {}


def test_twins_compile_alike_except_for_attention(pair):
    _, programs, _, (another_program, _) = pair
    assert hlo.equal(*programs) is not another_program


def test_twins_with_another_epsilon_differ():
    kwargs = {"num_features": 8}
    layer, twin = wrapped(nnx.LayerNorm, kwargs, {}), twins.twin_of(nnx.LayerNorm, {**kwargs, "epsilon": 0.5})
    x = jnp.arange(16.0).reshape(2, 8)
    needs = find_needs(layer, x, "it")
    variables = values(needs.variables)
    (ours, keys), (theirs, _) = (compiled(one, needs, variables, x) for one in (layer, twin.layer))
    one, two = (trees.named_arrays(program(variables, keys, x)) for program in (ours, theirs))
    assert closeness.differences(one, two)["0"]["ulp"] > 0
    assert hlo.equal(ours, theirs) is False


@pytest.mark.parametrize("nnx_class", NORMS)
def test_bfloat16_norms_differ_from_their_twins(nnx_class):
    kwargs = {"num_features": 8, "dtype": jnp.bfloat16}
    layer, twin = wrapped(nnx_class, kwargs, {}), twins.twin_of(nnx_class, kwargs, {})
    x = jnp.asarray(np.random.default_rng(1).standard_normal(WIDE), jnp.float32)
    needs = find_needs(layer, x, "it")
    variables = values(needs.variables)
    (ours, keys), (theirs, _) = (compiled(one, needs, variables, x) for one in (layer, twin.layer))
    one, two = (trees.named_arrays(program(variables, keys, x)) for program in (ours, theirs))
    assert closeness.differences(one, two)["0"]["ulp"] > 0


@pytest.mark.parametrize(
    ("nnx_class", "kwargs", "call", "why"),
    [
        (nnx.Dropout, {}, {}, "nn.Dropout draws its mask from another key"),
        (nnx.LSTMCell, {}, {}, "nn.LSTMCell has another tree of variables"),
        (nnx.LoRALinear, {}, {}, "flax.linen has no LoRALinear"),
        (
            nnx.Linear,
            {"in_features": 8, "out_features": 3, "preferred_element_type": jnp.float32},
            {},
            "nnx.Linear's preferred_element_type has no equivalent in nn.Dense",
        ),
        (
            nnx.Linear,
            {"in_features": 8, "out_features": 3, "promote_dtype": lambda arrays, dtype: arrays},
            {},
            "nnx.Linear's promote_dtype has no equivalent in nn.Dense",
        ),
        (nnx.PReLU, {"dtype": jnp.bfloat16}, {}, "nnx.PReLU's dtype has no equivalent in nn.PReLU"),
        (
            nnx.LayerNorm,
            {"num_features": 8, "scale_metadata": {"sharding_names": ("model",)}},
            {},
            "nnx.LayerNorm's scale_metadata has no equivalent in nn.LayerNorm",
        ),
        (
            nnx.MultiHeadAttention,
            {**ATTENTION, "num_heads": 4, "num_kv_heads": 2},
            {},
            "nnx.MultiHeadAttention's num_kv_heads has no equivalent in nn.MultiHeadDotProductAttention",
        ),
        (
            nnx.MultiHeadAttention,
            {**ATTENTION, "dropout_rate": 0.5},
            {},
            "nnx.MultiHeadAttention's dropout_rate draws its mask from another key in nn.MultiHeadDotProductAttention",
        ),
        (
            nnx.MultiHeadAttention,
            {**ATTENTION, "decode": True},
            {},
            "nnx.MultiHeadAttention's decode keeps its cache otherwise in nn.MultiHeadDotProductAttention",
        ),
        (
            nnx.MultiHeadAttention,
            ATTENTION,
            {"is_causal": True},
            "nnx.MultiHeadAttention's call argument is_causal has no equivalent in nn.MultiHeadDotProductAttention",
        ),
    ],
)
def test_untranslatable_layers_have_no_twin(nnx_class, kwargs, call, why):
    twin = twins.twin_of(nnx_class, kwargs, call)
    assert (twin.layer, twin.why) == (None, why)


def test_subclasses_have_no_twin():
    class Mine(nnx.Linear):
        pass

    assert twins.twin_of(Mine, {"in_features": 8, "out_features": 3}).why == "flax.linen has no Mine"
