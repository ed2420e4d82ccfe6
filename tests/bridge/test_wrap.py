"""An NNX class inside Linen: the worked example, what a config's layer becomes, and what is found out by tracing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge as flax_bridge

from runner.bridge import example, hosts, targets, wrap
from runner.bridge.needs import find_needs
from runner.bridge.rngs import apply_keys, init_keys, root_key
from runner.config.settings.layer import HostSettings, LayerSettings
from runner.errors import ConfigError, LayerError, UserError

HERE = __name__
LINEAR = {"in_features": 4, "out_features": 2}
HEADS = {"num_heads": 2, "in_features": 3, "decode": False}
ODD_HEADS = "ValueError: Memory dimension (3) must be divisible by 'num_heads' heads (2)"
LINEAR_TAKES = (
    "the constructor of flax.nnx.Linear takes in_features, out_features, use_bias, dtype, param_dtype, precision, "
    "kernel_init, bias_init, dot_general, promote_dtype, preferred_element_type, kernel_metadata, bias_metadata"
)


class TakesText(nnx.Module):
    """Its `kernel_init` is a word of its own, not an initialiser."""

    def __init__(self, kernel_init: str, *, rngs):
        self.word = kernel_init

    def __call__(self, x):
        return x if self.word == "my word" else -x


class OddOnly(nnx.Module):
    def __init__(self, width, *, rngs):
        if width % 2 == 0:
            raise ValueError(f"width={width} is even.")

    def __call__(self, x):
        return x


class Indivisible(nnx.Module):
    def __init__(self, depth, width, *, rngs):
        if depth != 1:
            raise ValueError(f"width={width} is no good.")

    def __call__(self, x):
        return x


class TakesMask(nnx.Module):
    def __init__(self, *, rngs):
        pass

    def __call__(self, x, mask):
        return x * mask


class Counter(nnx.Module):
    """Counts its calls; reads a second variable and leaves it alone."""

    def __init__(self, *, rngs):
        self.calls = nnx.BatchStat(jnp.zeros((), jnp.int32))
        self.scale = nnx.Cache(jnp.ones(()))

    def __call__(self, x):
        self.calls[...] += 1
        return x * self.scale[...]


class TakesName(nnx.Module):
    """`name` is a keyword that `to_linen` would keep for itself."""

    def __init__(self, name, *, rngs):
        self.sign = 1 if name == "mine" else -1

    def __call__(self, x):
        return self.sign * x


class Insatiable(nnx.Module):
    """Asks for a new stream each time it is tried."""

    def __init__(self, *, rngs):
        rngs[f"stream_{len(list(rngs))}"]()

    def __call__(self, x):
        return x


def make_linear(out_features, *, rngs):
    return nnx.Linear(4, out_features, rngs=rngs)


def settings_of(target, call=None, **kwargs):
    return LayerSettings(target=target, kwargs=kwargs, call=call or {})


def shaped(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def needs_of(target, x, call=None, **kwargs):
    return find_needs(wrap.wrap(settings_of(target, call, **kwargs)), x, "mine")


def refused(call, error=UserError):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def bits(array):
    return array.dtype.name, array.shape, np.asarray(array).tobytes()


# The worked example.


def by_hand(seed, x, features):
    class Layer(nnx.Module):
        def __init__(self, in_features, out_features, *, rngs):
            self.linear = nnx.Linear(in_features, out_features, rngs=rngs)

        def __call__(self, x):
            return self.linear(x)

    model = flax_bridge.to_linen(Layer, x.shape[-1], out_features=int(features))
    variables = model.init(jax.random.PRNGKey(int(seed)), x)
    return model.apply(variables, x)


@pytest.mark.sampled
@pytest.mark.parametrize("seed", [0, 1, 2, 42, 1234, 2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize(("in_features", "features"), [(1, 1), (4, 8), (17, 3)])
def test_worked_example_equals_plain_flax_calls(seed, in_features, features):
    x = jnp.asarray(np.random.default_rng(seed).normal(size=in_features), jnp.float32)
    output = example.nnx_inside_linen(seed, x, features)
    assert output.shape == (features,)
    assert bits(output) == bits(by_hand(seed, x, features))


@pytest.mark.sampled
@pytest.mark.parametrize("shape", [(4,), (1, 4), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_worked_example_takes_any_input_shape(shape, dtype):
    x = jnp.arange(np.prod(shape)).reshape(shape).astype(dtype)
    assert bits(example.nnx_inside_linen(3, x, 5)) == bits(by_hand(3, x, 5))


@pytest.mark.parametrize(
    ("seed", "features"),
    [
        (7.0, 3.0),
        (np.float32(7), np.int64(3)),
        (np.array(7), np.float64(3)),
        (jnp.float32(7), jnp.int32(3)),
        (jnp.asarray(7), jnp.asarray(3.0)),
    ],
)
def test_integers_of_any_type_are_accepted(seed, features):
    x = np.arange(4.0, dtype=np.float32)
    assert bits(example.nnx_inside_linen(seed, x, features)) == bits(by_hand(7, jnp.asarray(x), 3))


def test_another_seed_gives_another_output():
    x = jnp.ones(4)
    assert len({bits(example.nnx_inside_linen(seed, x, 3)) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("seed", "features", "message"),
    [
        (1.5, 3, "seed=1.5: a whole number is needed.\n  Try: seed=2"),
        (float("nan"), 3, "seed=nan: a whole number is needed.\n  Try: seed=0"),
        (-1, 3, "seed=-1: at least 0 is needed.\n  Try: seed=0"),
        (-1.0, 3, "seed=-1.0: at least 0 is needed.\n  Try: seed=0"),
        ("a", 3, "seed=a: a whole number is needed.\n  Try: seed=0"),
        (None, 3, "seed=null: a whole number is needed.\n  Try: seed=0"),
        ([1, 2], 3, "seed=[1,2]: a whole number is needed.\n  Try: seed=0"),
        (0, 0, "features=0: at least 1 is needed.\n  Try: features=1"),
        (0, -3, "features=-3: at least 1 is needed.\n  Try: features=1"),
        (0, 2.5, "features=2.5: a whole number is needed.\n  Try: features=2"),
        (0, float("nan"), "features=nan: a whole number is needed.\n  Try: features=1"),
        (0, "b", "features=b: a whole number is needed.\n  Try: features=1"),
    ],
)
def test_invalid_integers_are_refused_by_name(seed, features, message):
    assert refused(lambda: example.nnx_inside_linen(seed, jnp.ones(4), features), ConfigError) == message


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 10**400], ids=["inf", "-inf", "10**400"])
@pytest.mark.parametrize("key", ["seed", "features"])
def test_a_number_without_end_is_named(key, value):
    arguments = {"seed": 0, "x": jnp.ones(4), "features": 3, key: value}
    message = refused(lambda: example.nnx_inside_linen(**arguments), ConfigError)
    assert message.startswith(f"{key}={value}: ")


@pytest.mark.parametrize("seed", [2**32, 1e30])
def test_seeds_over_32_bits_are_refused(seed):
    message = refused(lambda: example.nnx_inside_linen(seed, jnp.ones(4), 3), ConfigError)
    assert message.startswith(f"seed={seed}: ")


@pytest.mark.parametrize("text", ["3", "3.0"])
def test_quoted_numbers_are_refused(text):
    message = refused(lambda: example.nnx_inside_linen(text, jnp.ones(4), 3), ConfigError)
    assert message.startswith(f"seed={text}: a whole number is needed.")


def test_what_is_suggested_can_be_typed():
    assert refused(lambda: example.nnx_inside_linen(0, jnp.ones(4), 0.2)).endswith("Try: features=1")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (1.0, "input_shape=[]: x needs at least one axis.\n  Try: 'input_shape=[4]'"),
        (jnp.ones(()), "input_shape=[]: x needs at least one axis.\n  Try: 'input_shape=[4]'"),
        (jnp.ones(0), "input_shape=[0]: every axis needs at least one element.\n  Try: 'input_shape=[4]'"),
    ],
)
def test_scalar_and_empty_inputs_are_refused(x, message):
    assert refused(lambda: example.nnx_inside_linen(0, x, 3), ConfigError) == message


# A layer's settings to a wrapped module.


def test_constructors_without_rngs_get_none():
    wrapped = wrap.wrap(settings_of("flax.nnx.PReLU", negative_slope_init=0.5))
    assert wrapped.model.skip_rng
    assert isinstance(wrapped.construct(nnx.Rngs(0)), nnx.PReLU)
    variables = wrapped.init(jax.random.PRNGKey(0), ("params",), -jnp.ones(2))
    assert wrapped.apply(variables, {}, (), -jnp.ones(2))[0].tolist() == [-0.5, -0.5]


def test_native_module_matches_on_equal_variables():
    wrapped, x, key = wrap.wrap(settings_of("flax.nnx.Linear", **LINEAR)), jnp.arange(4.0), root_key(5)
    variables = wrapped.init(key, ("params",), x)
    native = wrapped.construct(nnx.Rngs(0))
    nnx.update(native, variables["params"])
    assert bits(native(x)) == bits(wrapped.apply(variables, {}, (), x)[0])


@pytest.mark.parametrize("target", [f"{HERE}.make_linear", f"{HERE}:make_linear"])
def test_factories_taking_rngs_are_layers(target):
    assert needs_of(target, shaped(3, 4), out_features=2).output.shape == (3, 2)


def test_bridge_keywords_still_reach_the_layer():
    wrapped = wrap.wrap(settings_of(f"{HERE}.TakesName", name="mine"))
    assert wrapped.apply({}, {}, (), jnp.ones(1))[0].tolist() == [1.0]


@pytest.mark.parametrize(
    ("target", "kwargs", "message"),
    [
        (
            "flax.nnx.Embed",
            {"features": 2},
            "layer.target=flax.nnx.Embed: its constructor also needs num_embeddings.",
        ),
        (
            f"{HERE}.make_linear",
            {},
            f"layer.target={HERE}.make_linear: its constructor also needs out_features.",
        ),
    ],
)
def test_an_argument_that_is_missing_is_named(target, kwargs, message):
    assert refused(lambda: wrap.wrap(settings_of(target, **kwargs)), LayerError) == message


@pytest.mark.parametrize(
    ("target", "kwargs", "message"),
    [
        (
            "flax.nnx.Linear",
            {**LINEAR, "use_bia": False},
            f"layer.kwargs.use_bia=false: {LINEAR_TAKES}.\n  Try: layer.kwargs.use_bias=false",
        ),
        (
            "flax.nnx.Linear",
            {**LINEAR, "qqqq": [1, 2]},
            f"layer.kwargs.qqqq=[1,2]: {LINEAR_TAKES}.\n  Try: ~layer.kwargs.qqqq",
        ),
        (
            f"{HERE}.Counter",
            {"width": 1},
            f"layer.kwargs.width=1: the constructor of {HERE}.Counter takes no arguments.\n  Try: ~layer.kwargs.width",
        ),
        (
            f"{HERE}.Counter",
            {"width": 1, "depth": 2},
            f"layer.kwargs.width=1: the constructor of {HERE}.Counter takes no arguments.\n"
            "  Try: ~layer.kwargs.width ~layer.kwargs.depth",
        ),
    ],
)
def test_unknown_keywords_suggest_the_nearest(target, kwargs, message):
    assert refused(lambda: wrap.wrap(settings_of(target, **kwargs)), ConfigError) == message


NOT_A_FACTORY = (
    "is neither an nnx.Module nor a factory that takes rngs.\n"
    "  Try: def make_layer(*, rngs): return MyLayer(…, rngs=rngs)"
)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "nope.Mod",
            "there is no module nope.\n  Try: run from the folder that holds the module, or install its package",
        ),
        ("nope", "a dotted path is wanted.\n  Try: layer.target=my_pkg.MyLayer"),
        ("../nope.py", "a dotted path is wanted.\n  Try: layer.target=my_pkg.MyLayer"),
        ("flax.nnx.Liner", "flax.nnx has no Liner.\n  Try: layer.target=flax.nnx.Linear"),
        ("flax.nnx.Qqqqqqqq", "flax.nnx has no Qqqqqqqq."),
        ("flax.linen.Dense", "a flax.linen module already is Linen and needs no bridge."),
        (
            "collections.OrderedDict",
            "the class OrderedDict is no flax.nnx.Module.\n  Try: layer.target=flax.nnx.Linear",
        ),
        ("os.system", f"a builtin_function_or_method {NOT_A_FACTORY}"),
        ("os:system", f"a builtin_function_or_method {NOT_A_FACTORY}"),
        ("json.dumps", f"a function {NOT_A_FACTORY}"),
        ("math.pi", f"a float {NOT_A_FACTORY}"),
        ("flax.nnx", f"a module {NOT_A_FACTORY}"),
    ],
)
def test_non_layer_targets_are_never_called(target, message):
    assert refused(lambda: wrap.wrap(settings_of(target)), LayerError) == f"layer.target={target}: {message}"


def test_path_typos_keep_the_correct_parts():
    assert refused(lambda: wrap.wrap(settings_of("flax.nxx.Linear"))).endswith("Try: layer.target=flax.nnx.Linear")


def test_import_failures_give_their_reason(tmp_path, monkeypatch):
    (tmp_path / "broken_layer.py").write_text("import no_such_thing")
    (tmp_path / "raising_layer.py").write_text("raise RuntimeError('not today')")
    monkeypatch.syspath_prepend(tmp_path)
    broken, raising = "layer.target=broken_layer.Mine: ", "layer.target=raising_layer.Mine: "
    assert refused(lambda: wrap.wrap(settings_of("broken_layer.Mine")), LayerError) == (
        f"{broken}importing broken_layer failed: No module named 'no_such_thing'."
    )
    assert refused(lambda: wrap.wrap(settings_of("raising_layer.Mine")), LayerError) == (
        f"{raising}importing raising_layer failed: RuntimeError: not today."
    )


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float8_e4m3fn"])
def test_dtype_names_become_dtypes(name):
    needs = needs_of("flax.nnx.Linear", shaped(4), **LINEAR, dtype="bfloat16", param_dtype=name)
    assert needs.output.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(needs.variables)} == {name}


@pytest.mark.parametrize(
    ("text", "kernel"),
    [
        ("zeros", 0.0),
        ("zeros_init", 0.0),
        ("ones", 1.0),
        ("constant(value=0.25)", 0.25),
        ("flax.nnx.initializers.ones", 1.0),
    ],
)
def test_initialiser_names_become_initialisers(text, kernel):
    wrapped = wrap.wrap(settings_of("flax.nnx.Linear", **LINEAR, kernel_init=text))
    variables = wrapped.init(root_key(0), ("params",), jnp.ones(4))
    assert variables["params"]["kernel"].tolist() == [[kernel] * 2] * 4


def test_equal_settings_share_one_initialiser():
    first, second = (
        wrap.wrap(settings_of("flax.nnx.Linear", **LINEAR, kernel_init="normal(stddev=0.02)")).model for _ in "ab"
    )
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("relu", jax.nn.relu), ("tanh", jnp.tanh), ("jax.numpy.sin", jnp.sin)],
)
def test_activation_names_become_functions(text, expected):
    wrapped = wrap.wrap(settings_of("runner.bridge.layers.blocks.MLP", **LINEAR, hidden=3, activation=text))
    assert wrapped.construct(nnx.Rngs(0)).activation is expected


def test_the_identity_is_an_activation():
    wrapped = wrap.wrap(settings_of("runner.bridge.layers.blocks.MLP", **LINEAR, hidden=3, activation="identity"))
    assert wrapped.construct(nnx.Rngs(0)).activation(-2.0) == -2.0


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("dtype", "bfloat17", "no such dtype.\n  Try: layer.kwargs.dtype=bfloat16"),
        ("param_dtype", "flot", "no such dtype.\n  Try: layer.kwargs.param_dtype=bfloat16"),
        (
            "kernel_init",
            "zeross",
            "no such initialiser in flax.nnx.initializers.\n  Try: layer.kwargs.kernel_init=zeros",
        ),
        (
            "kernel_init",
            "qqqq",
            "no such initialiser in flax.nnx.initializers.\n  Try: layer.kwargs.kernel_init=lecun_normal",
        ),
        (
            "bias_init",
            "normal(std=1)",
            "normal() got an unexpected keyword argument 'std'.\n  Try: layer.kwargs.bias_init='normal(stddev=0.02)'",
        ),
    ],
)
def test_unknown_names_suggest_the_nearest(key, text, message):
    kwargs = {**LINEAR, key: text}
    expected = f"layer.kwargs.{key}={text}: {message}"
    assert refused(lambda: wrap.wrap(settings_of("flax.nnx.Linear", **kwargs)), ConfigError) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rel", "no such activation in jax.nn.\n  Try: layer.kwargs.activation=relu"),
        ("qqqq", "no such activation in jax.nn.\n  Try: layer.kwargs.activation=relu"),
        ("gelus", "no such activation in jax.nn.\n  Try: layer.kwargs.activation=gelu"),
    ],
)
def test_unknown_activations_suggest_the_nearest(text, message):
    layer = settings_of("runner.bridge.layers.blocks.MLP", **LINEAR, hidden=3, activation=text)
    assert refused(lambda: wrap.wrap(layer), ConfigError) == f"layer.kwargs.activation={text}: {message}"


def test_uncallable_activations_are_refused():
    layer = settings_of("runner.bridge.layers.blocks.MLP", **LINEAR, hidden=3, activation="math.pi")
    assert refused(lambda: wrap.wrap(layer), ConfigError).startswith("layer.kwargs.activation=math.pi: ")


@pytest.mark.parametrize("text", ["normal(stddev=a)", "constant(0.1)"])
def test_a_suggested_initialiser_is_one(text):
    message = refused(lambda: wrap.wrap(settings_of("flax.nnx.Linear", **LINEAR, kernel_init=text)), ConfigError)
    suggestion = message.partition("Try: layer.kwargs.kernel_init=")[2].strip("'")
    assert callable(targets.resolve_initializer(suggestion))


def test_equal_lists_and_dicts_hash_alike():
    first, second, other = (
        wrap.wrap(
            settings_of("flax.nnx.Conv", {"flags": [1, {"a": last}]}, **LINEAR, kernel_size=[3], padding=[[1, 1]])
        )
        for last in ([2], [2], [3])
    )
    assert first.model == second.model
    assert hash(first.model) == hash(second.model)
    assert (first.call == second.call, first.call == other.call) == (True, False)
    assert first.model.kwargs["padding"] == [(1, 1)]  # annotated Sequence[tuple[int, int]]
    assert first.call["flags"] == [1, {"a": [2]}]


def test_str_parameters_keep_their_text():
    wrapped = wrap.wrap(settings_of(f"{HERE}.TakesText", kernel_init="my word"))
    assert wrapped.apply({}, {}, (), jnp.ones(1))[0].tolist() == [1.0]


# What a layer needs.


@pytest.mark.parametrize(
    ("target", "kwargs", "streams", "mutable"),
    [
        ("flax.nnx.Linear", LINEAR, ("params",), ()),
        ("flax.nnx.Dropout", {"rate": 0.5, "deterministic": False}, ("params", "dropout"), ()),
        (
            "runner.bridge.layers.recurrent.rnn",
            {"cell": "gru", "in_features": 4, "hidden_features": 2},
            ("params", "carry"),
            (),
        ),
        ("flax.nnx.BatchNorm", {"num_features": 4}, ("params",), ("batch_stats",)),
        ("flax.nnx.BatchNorm", {"num_features": 4, "use_running_average": True}, ("params",), ()),
        ("flax.nnx.MultiHeadAttention", {"num_heads": 2, "in_features": 4, "decode": False}, ("params",), ()),
        ("flax.nnx.LoRALinear", {**LINEAR, "lora_rank": 1}, ("params",), ()),
        (f"{HERE}.Counter", {}, ("params",), ("batch_stats",)),
        (
            "runner.bridge.layers.blocks.TransformerBlock",
            {"features": 4, "num_heads": 2, "hidden": 3, "dropout_rate": 0.1},
            ("params", "dropout"),
            (),
        ),
    ],
)
def test_streams_and_mutable_collections_are_found(target, kwargs, streams, mutable):
    needs = needs_of(target, shaped(3, 4), **kwargs)
    assert (needs.streams, needs.mutable) == (streams, mutable)


def test_call_arguments_can_add_streams():
    attention = {"num_heads": 2, "in_features": 4, "decode": False, "dropout_rate": 0.5}
    needs = needs_of("flax.nnx.MultiHeadAttention", shaped(3, 4), {"deterministic": False}, **attention)
    assert needs.streams == ("params", "dropout")


def test_shapes_come_from_tracing():
    needs = needs_of("flax.nnx.Linear", shaped(3, 4, dtype="bfloat16"), **LINEAR)
    assert {key: leaf.shape for key, leaf in needs.variables["params"].items()} == {"kernel": (4, 2), "bias": (2,)}
    assert (needs.output.shape, needs.output.dtype) == ((3, 2), jnp.float32)


def test_every_init_and_apply_key_differs():
    key = root_key(3)
    init, apply = init_keys(key, ("params", "dropout", "carry")), apply_keys(key, ("params", "dropout"))
    assert bits(init["params"]) == bits(jax.random.PRNGKey(3))
    assert list(apply) == ["dropout"]
    assert len({bits(one) for one in [*init.values(), *apply.values()]}) == 4


@pytest.mark.parametrize(
    ("target", "kwargs", "shape", "message"),
    [
        (
            "flax.nnx.Linear",
            LINEAR,
            (3, 5),
            "TypeError: dot_general requires contracting dimensions to have the same shape, got (5,) and (4,).\n"
            "  Try: 'input_shape=[3,4]'",
        ),
        (
            "flax.nnx.BatchNorm",
            {"num_features": 4},
            (3, 5),
            "TypeError: add got incompatible shapes for broadcasting: (4,), (5,).\n  Try: 'input_shape=[3,4]'",
        ),
        (
            "flax.nnx.Embed",
            {"num_embeddings": 32, "features": 2},
            (3,),
            "ValueError: Input type must be an integer or unsigned integer.\n  Try: input=tokens input.high=32",
        ),
        (
            f"{HERE}.TakesMask",
            {},
            (4,),
            "TypeError: TakesMask.__call__() missing 1 required positional argument: 'mask'."
            "\n  Try: 'input.shapes={mask:[4]}'",
        ),
        (
            "flax.nnx.MultiHeadAttention",
            {"num_heads": 2, "in_features": 4},
            (3, 4),
            "ValueError: No `decode` argument was provided to MultiHeadAttention as either a __call__ argument, class "
            "attribute, or nnx.flag.\n  Try: layer.call.decode=false",
        ),
    ],
)
def test_input_errors_suggest_an_override(target, kwargs, shape, message):
    start = f"layer mine can't take x of shape {list(shape)} float32: "
    assert refused(lambda: needs_of(target, shaped(*shape), **kwargs), LayerError) == start + message


def test_too_few_axes_suggest_another_one():
    message = refused(lambda: needs_of("flax.nnx.Conv", shaped(4), **LINEAR, kernel_size=3), LayerError)
    assert message.endswith("Try: 'input_shape=[2,4]'")


@pytest.mark.parametrize(
    ("target", "kwargs", "shape", "reason", "fix"),
    [
        (f"{HERE}.OddOnly", {"width": 2}, [4], "ValueError: width=2 is even", "layer.kwargs.width=1"),
        (
            "runner.bridge.layers.blocks.MLP",
            {**LINEAR, "hidden": 3, "num_layers": 0},
            [4],
            "ValueError: num_layers=0: an MLP has at least one linear layer",
            "layer.kwargs.num_layers=1",
        ),
        # A depth of one would do as well, but the error says nothing of it.
        (f"{HERE}.Indivisible", {"depth": 2, "width": 4}, [4], "ValueError: width=4 is no good", None),
        ("flax.nnx.MultiHeadAttention", HEADS, [5, 3], ODD_HEADS, "layer.kwargs.num_heads=1"),
        ("flax.nnx.MultiHeadAttention", HEADS, [3], ODD_HEADS, "layer.kwargs.num_heads=1 'input_shape=[2,3]'"),
        ("flax.nnx.MultiHeadAttention", {**HEADS, "decode": None}, [3], ODD_HEADS, None),
    ],
)
def test_constructor_errors_are_layer_errors(target, kwargs, shape, reason, fix):
    message = refused(lambda: needs_of(target, shaped(*shape), **kwargs), LayerError)
    hint = f"\n  Try: {fix}" if fix else ""
    assert message == f"layer mine can't be built from its layer.kwargs: {reason}.{hint}"


def test_unknown_call_arguments_are_reported():
    message = refused(lambda: needs_of("flax.nnx.Linear", shaped(4), {"training": True}, **LINEAR), LayerError)
    assert "Linear.__call__() got an unexpected keyword argument 'training'." in message
    assert "layer.call" in message.partition("Try: ")[2]


@pytest.mark.slow
def test_endless_stream_requests_are_refused():
    message = refused(lambda: needs_of(f"{HERE}.Insatiable", shaped(4)), LayerError)
    assert "No RngStream named" in message


def test_flax_layers_have_no_source_digest():
    assert targets.source_digest("flax.nnx.Linear") is None
    assert targets.source_digest(f"{HERE}.Counter") == targets.source_digest(f"{HERE}.TakesText")
    assert targets.source_digest("runner.bridge.layers.blocks.MLP") not in (
        None,
        targets.source_digest(f"{HERE}.Counter"),
    )


# What a refusal suggests was tried.


def unwrapped_hint(target, x, call=None, **kwargs):
    return refused(lambda: needs_of(target, x, call, **kwargs), LayerError).partition("\n  Try: ")[2]


class EightByDefault(nnx.Module):
    """A width that only the constructor knows."""

    def __init__(self, width=8, *, rngs):
        self.linear = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return self.linear(x)


def test_a_default_width_is_taken_from_the_error():
    assert unwrapped_hint(f"{HERE}.EightByDefault", shaped(4)) == "'input_shape=[8]'"
    assert unwrapped_hint(f"{HERE}.EightByDefault", shaped(2, 4)) == "'input_shape=[2,8]'"


class Odd(nnx.Module):
    """Takes a last axis of 5 in two axes; nothing in its arguments says so."""

    def __init__(self, dim=4, *, rngs):
        pass

    def __call__(self, x):
        assert x.ndim == 2
        return x


class Never(nnx.Module):
    """Takes nothing, whatever is suggested."""

    def __init__(self, dim=4, *, rngs):
        pass

    def __call__(self, x):
        raise ValueError(f"not integer, shape {x.shape}, missing 'train'")


@pytest.mark.parametrize(
    ("target", "x", "hint"),
    [
        (f"{HERE}.Odd", shaped(4), "'input_shape=[2,4]'"),
        (f"{HERE}.Odd", shaped(2, 3, 4), "'input_shape=[3,4]'"),
        (f"{HERE}.Never", shaped(4), ""),
        (f"{HERE}.Never", shaped(2, 5), ""),
    ],
)
def test_only_what_works_is_suggested(target, x, hint):
    assert unwrapped_hint(target, x) == hint


def test_in_hosts_a_width_is_suggested():
    layer = wrap.wrap(settings_of("flax.nnx.Linear", in_features=3, out_features=4))
    hosted = hosts.put_around(layer, HostSettings(target="runner.bridge.hosts.MLPHost"))
    message = refused(lambda: find_needs(hosted, shaped(2, 4), "mine"), LayerError)
    assert message.endswith("Try: layer.kwargs.in_features=4")
