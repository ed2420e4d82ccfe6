"""Check 5, `trained`: leaves that the optimiser never sees, that nobody reads, that get no gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import stepped_layers as stepped
import trained_layers as planted
from common_layers import COMMON
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge
from flax.training.train_state import TrainState

from runner.bridge.layers.recurrent import Step
from runner.checks import trained
from runner.checks.probes.subject import subject_of
from runner.records.record import Verdict

LAYERS = COMMON
X = jnp.ones((2, 4))
RANDOM = jnp.asarray(np.random.default_rng(2).standard_normal((4, 4)), jnp.float32)


def lora():
    return bridge.to_linen(nnx.LoRALinear, 4, 3, lora_rank=2)


class RawScale(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.scale = nnx.data(jnp.ones(4))

    def __call__(self, x):
        return self.linear(x) * self.scale


class Own(nnx.Param):
    pass


class OwnType(nnx.Module):
    def __init__(self, *, rngs):
        self.w = Own(jnp.ones(4))
        self.seen = nnx.BatchStat(jnp.ones(4))

    def __call__(self, x):
        return x * self.w[...] + self.seen[...]


class Frozen(nnx.Module):
    def __init__(self, *, rngs):
        self.w = nnx.Param(jnp.ones(4))
        self.hold()

    def hold(self):
        pass

    def __call__(self, x):
        return x * jax.lax.stop_gradient(self.w[...])


class ForUpdates(nnx.Module):
    """`w` reaches a statistic, and the output only where `read`."""

    def __init__(self, *, read, rngs):
        self.w = nnx.Param(jnp.ones(4))
        self.seen = nnx.BatchStat(jnp.ones(4))
        self.read = read

    def __call__(self, x):
        self.seen[...] = (x * self.w[...]).mean(0)
        return x * self.w[...] if self.read else x


class Counts(nnx.Module):
    def __init__(self, *, rngs):
        self.w = nnx.Param(jnp.ones(4))

    def __call__(self, x):
        return jnp.argmax(x * self.w[...], -1)


class OnTheHost(nnx.Module):
    def __init__(self, *, rngs):
        self.w = nnx.Param(jnp.ones(4))

    def __call__(self, x):
        return jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct(x.shape, x.dtype), x * self.w[...])


class Old(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.Dense(4)(x)
        return x


class New(nn.Module):
    """`Old` with an NNX layer in the middle."""

    middle: str | None = None
    last: str | None = None

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        x = bridge.to_linen(nnx.Linear, 4, 4, name=self.middle)(x)
        return nn.Dense(4, name=self.last)(x)


@pytest.mark.sampled
@pytest.mark.parametrize("layer", LAYERS)
def test_only_lora_has_leaves_outside_params(of_config, layer):
    check = trained.check(of_config(f"layer={layer}"), full=False)
    assert check.verdict is (Verdict.fail if layer == "lora" else Verdict.passed)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["linear", "embed", "gru", "transformer_block"])
def test_healthy_layers_get_gradients_everywhere(of_config, layer):
    check = trained.check(of_config(f"layer={layer}"), full=True)
    num = {"linear": 2, "embed": 1, "gru": 3, "transformer_block": 16}[layer]
    leaves = "the one trainable leaf is" if num == 1 else f"all {num} trainable leaves are"
    assert (check.verdict, check.detail) == (Verdict.passed, f"{leaves} in params, and each gets a nonzero gradient")


@pytest.mark.slow
def test_lora_fix_trains_its_weights():
    check = trained.check(subject_of(lora(), X), full=False)
    assert check.evidence == {"outside": ["LoRAParam/lora/lora_a", "LoRAParam/lora/lora_b"]}
    assert check.fix == (
        "trained = {name: variables[name] for name in ['params', 'LoRAParam']}\n"
        "state = TrainState.create(apply_fn=model.apply, params=trained, tx=tx)\n"
        "output = state.apply_fn({**variables, **state.params}, x)\n"
        "# here: train.collections=[params,LoRAParam]"
    )
    model = lora()
    names = {"model": model, "x": X, "variables": model.init(jax.random.key(0), X)}
    exec(check.fix, names | {"TrainState": TrainState, "tx": optax.sgd(0.1)}, names)
    assert names["output"].shape == (2, 3)
    given = subject_of(model, X, trained=tuple(names["state"].params))
    assert trained.check(given, full=True).verdict is Verdict.passed


@pytest.mark.slow
def test_naming_loras_collection_turns_the_verdict(of_config):
    check = trained.check(of_config("layer=lora", "train.collections=[params,LoRAParam]"), full=True)
    assert (check.verdict, check.detail) == (
        Verdict.passed,
        "all 4 trainable leaves are in params, LoRAParam, and each gets a nonzero gradient",
    )


def test_leaving_out_params_on_purpose_warns():
    check = trained.check(subject_of(lora(), X, trained=["LoRAParam"]), full=False)
    assert (check.verdict, check.detail) == (
        Verdict.warn,
        "params/bias, params/kernel stay as they are: train.collections leaves out params",
    )


def test_misspelt_collections_fail():
    check = trained.check(subject_of(lora(), X, trained=["params", "LoraParam"]), full=False)
    assert (check.verdict, check.detail) == (
        Verdict.fail,
        "LoRAParam/lora/lora_a, LoRAParam/lora/lora_b stay as they are: "
        "train.collections (LoraParam: no such collection) leaves out LoRAParam",
    )


def test_param_wrapping_trains_a_raw_array():
    model = bridge.to_linen(RawScale)
    check = trained.check(subject_of(model, X), full=False)
    assert (check.verdict, check.detail) == (
        Verdict.warn,
        "DynamicJaxprTracer/scale is a raw array, of no Variable: never trained, right if constant",
    )
    assert check.fix == (
        "# at the end of its __init__; nnx.Variable for a constant:\nself.scale = nnx.data(nnx.Param(self.scale))"
    )

    class Fixed(RawScale):
        def __init__(self, *, rngs):
            super().__init__(rngs=rngs)
            exec(check.fix, {"self": self, "nnx": nnx})

    assert trained.check(subject_of(bridge.to_linen(Fixed), X), full=False).verdict is Verdict.passed
    named = subject_of(model, X, trained=["params", "DynamicJaxprTracer"])
    assert trained.check(named, full=False).verdict is Verdict.passed


def test_custom_param_types_must_be_trained():
    check = trained.check(subject_of(bridge.to_linen(OwnType), X), full=False)
    assert (check.verdict, check.evidence) == (Verdict.fail, {"outside": ["Own/w"]})
    named = subject_of(bridge.to_linen(OwnType), X, trained=["Own"])
    assert trained.check(named, full=True).verdict is Verdict.passed


def test_unread_checkpoint_leaves_are_named():
    old = Old().init(jax.random.key(0), X)
    check = trained.check(subject_of(New(), X, variables=old), full=False)
    assert (check.verdict, check.evidence) == (
        Verdict.fail,
        {"unread": ["params/Dense_2/bias", "params/Dense_2/kernel"]},
    )
    assert check.detail == "params/Dense_2/bias, params/Dense_2/kernel can't be trained: no output depends on them"
    assert check.fix == (
        "# in the host; a name for the first alone would raise NameInUseError:\n"
        "bridge.to_linen(…, name='Dense_1')  # what is ToLinen_0\n"
        "Dense(…, name='Dense_2')  # what is Dense_1"
    )
    named = subject_of(New(middle="Dense_1", last="Dense_2"), X, variables=old)
    assert trained.check(named, full=True).verdict is Verdict.passed


@pytest.mark.parametrize(("read", "unread"), [(True, None), (False, ["params/w"])])
def test_leaves_read_only_for_updates_fail(read, unread):
    check = trained.check(subject_of(bridge.to_linen(ForUpdates, read=read), X), full=False)
    assert (check.verdict is Verdict.fail, check.evidence.get("unread")) == (not read, unread)


def test_extra_leaves_suggest_a_reading_name():
    variables = New().init(jax.random.key(0), X)
    variables["params"]["Dense_9"] = variables["params"]["Dense_1"]
    check = trained.check(subject_of(New(), X, variables=variables), full=False)
    assert check.fix == "name='Dense_9',  # for the layer that is to read Dense_9 of these variables"
    named = subject_of(New(last=eval(f"dict(\n{check.fix}\n)")["name"]), X, variables=variables)
    assert "Dense_9" not in trained.check(named, full=False).detail


def test_stopped_gradient_leaves_can_become_constants():
    check = trained.check(subject_of(bridge.to_linen(Frozen), X), full=True)
    assert (check.verdict, check.detail) == (
        Verdict.fail,
        "params/w can't be trained: the gradient is zero whatever the data",
    )
    assert check.fix == "self.w = nnx.Variable(self.w[...])  # a constant, no nnx.Param"

    class Held(Frozen):
        def hold(self):
            exec(check.fix, {"self": self, "nnx": nnx})

    fixed = trained.check(subject_of(bridge.to_linen(Held), X), full=True)
    assert (fixed.verdict, fixed.detail) == (Verdict.passed, "nothing to train: no leaf is trainable")


@pytest.mark.slow
def test_data_dependent_zero_gradients_only_warn(of_config):
    check = trained.check(of_config("layer=multi_head_attention", "input_shape=[1,8]"), full=True)
    assert (check.verdict, check.fix) == (Verdict.warn, "'input_shape=[4,8]'")
    assert check.detail == (
        "params/key/bias, params/key/kernel, params/query/bias and 1 more got a zero gradient "
        "on random x of shape [1, 8]"
    )
    fixed = of_config("layer=multi_head_attention", check.fix.strip("'"))
    assert trained.check(fixed, full=True).verdict is Verdict.passed


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "lstm", "simple"])
def test_single_cell_steps_warn(cell):
    model = bridge.to_linen(Step, cell=cell, in_features=4, hidden_features=4)
    check = trained.check(subject_of(model, X), full=True)
    assert check.verdict is Verdict.warn
    assert (
        "got a zero gradient: it meets only zeros, as in one step of a recurrent cell: right where later"
        in check.detail
    )


def test_an_output_of_integers_trains_nothing():
    check = trained.check(subject_of(bridge.to_linen(Counts), X), full=False)
    assert (check.verdict, check.detail) == (
        Verdict.warn,
        "params/w can't be trained through this output: it is int32, and only a floating one has a gradient: "
        "right if another call trains",
    )


def test_non_differentiable_layers_report_their_error():
    check = trained.check(subject_of(bridge.to_linen(OnTheHost), X), full=True)
    assert check.verdict is Verdict.fail
    assert check.detail.startswith("the gradient can't be taken: ValueError: Pure callbacks do not support JVP.")


def of_planted(name, *collections):
    layer = bridge.to_linen(getattr(planted, name))
    return trained.check(subject_of(layer, RANDOM, trained=collections or ("params",)), full=True)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("name", "collections", "detail"),
    [
        ("OrderParam", [], "params/order can't be trained: jax.grad refuses int32, and the whole tree with it"),
        ("MaskParam", [], "params/order can't be trained: jax.grad refuses bool, and the whole tree with it"),
        ("ByteParam", [], "params/order can't be trained: jax.grad refuses int8, and the whole tree with it"),
        ("StillTurn", [], "params/w can't be trained: the gradient is zero whatever the data"),
        ("Gated", [], "params/gate/bias, params/gate/kernel can't be trained: the gradient is zero whatever the data"),
        ("Binary", [], "params/w can't be trained: the gradient is zero at all 12 random points"),
        ("Root", [], "params/scale can't be trained: the gradient is NaN or infinite where the output is not"),
        (
            "UnsafeNorm",
            [],
            "params/linear/bias, params/linear/kernel can't be trained: "
            "the gradient is NaN or infinite where the output is not",
        ),
        (
            "Counts",
            ["params", "Counter"],
            "Counter/calls can't be trained: jax.grad refuses int32, and the whole tree with it",
        ),
        (
            "Normed",
            ["params", "batch_stats"],
            "batch_stats/norm/mean, batch_stats/norm/var would be trained as weights: "
            "the layer keeps batch_stats itself, by what it sees",
        ),
        (
            "Averages",
            ["params", "Average"],
            "Average/average would be trained as weights: the layer keeps Average itself, by what it sees",
        ),
        ("Adapted", [], "Adapter/down, Adapter/up would never be trained: the optimiser gets only params"),
        (
            "RawWeight",
            [],
            "DynamicJaxprTracer/weight would never be trained: the optimiser gets only params; "
            "DynamicJaxprTracer/weight is a raw array, of no Variable",
        ),
    ],
)
def test_untrainable_weights_are_named(name, collections, detail):
    check = of_planted(name, *collections)
    assert (check.verdict, check.detail) == (Verdict.fail, detail)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("name", "collections"),
    [
        ("Ordered", []),
        ("MaskVariable", []),
        ("SoftGated", []),
        ("StraightBinary", []),
        ("RootOfOne", []),
        ("SafeNorm", []),
        ("Counts", []),
        ("Normed", []),
        ("Averages", []),
        ("Adapted", ["params", "Adapter"]),
        ("ZeroHead", []),
        ("Residual", []),
        ("FloatOutput", []),
        ("Spectrum", []),
    ],
)
def test_lookalike_healthy_layers_pass(name, collections):
    assert of_planted(name, *collections).verdict is Verdict.passed


@pytest.mark.parametrize("name", ["OrderParam", "MaskParam"])
def test_the_code_makes_constants_of_integers(name):
    lines = of_planted(name).fix

    class Held(getattr(planted, name)):
        def __init__(self, *, rngs):
            super().__init__(rngs=rngs)
            exec(lines, {"self": self, "nnx": nnx})

    check = trained.check(subject_of(bridge.to_linen(Held), RANDOM), full=True)
    assert check.verdict is Verdict.passed


@pytest.mark.parametrize("name", ["Normed", "Counts"])
def test_statistics_fix_leaves_them_out(name):
    collection = {"Normed": "batch_stats", "Counts": "Counter"}[name]
    assert of_planted(name, "params", collection).fix == "'train.collections=[params]'"
    assert of_planted(name, "params").verdict is Verdict.passed


def test_purposely_trained_variables_warn():
    check = of_planted("Prompted", "params", "Prompt")
    assert (check.verdict, check.fix) == (Verdict.warn, "'train.collections=[params]'")
    assert check.detail == "Prompt/prompt is trained, though no nnx.Param: right for weights"


@pytest.mark.slow
def test_hosts_scaling_layers_by_zero_fail():
    layer = bridge.to_linen(nnx.Linear, 4, 4)
    hosts = [planted.ScaledByZero(layer), planted.ScaledByZero(layer, 1.0), planted.ZeroDense(layer)]
    checks = [trained.check(subject_of(host, RANDOM), full=True) for host in hosts]
    assert [check.verdict for check in checks] == [Verdict.fail, Verdict.passed, Verdict.passed]
    detail = "params/layer/bias, params/layer/kernel can't be trained: the gradient is zero at all 12 random points"
    assert (checks[0].detail, checks[0].fix) == (detail, None)


@pytest.mark.slow
def test_the_code_for_complex_weights_descends():
    check = of_planted("Turn")
    assert (check.verdict, check.detail) == (
        Verdict.warn,
        "params/w is complex: right if the pipeline conjugates their gradients before optax, as train.steps does here",
    )
    model = bridge.to_linen(planted.Turn)
    params, goal = (model.init(jax.random.key(seed), RANDOM) for seed in (0, 1))
    tx = optax.sgd(0.3)

    def loss(params):
        return ((model.apply(params, RANDOM) - model.apply(goal, RANDOM)) ** 2).mean()

    names = {"jax": jax, "jnp": jnp, "tx": tx, "loss": loss, "params": params, "opt_state": tx.init(params)}
    before = loss(params)
    for _ in range(100):
        exec(check.fix, names)
        names["params"] = optax.apply_updates(names["params"], names["updates"])
    assert loss(names["params"]) < 0.01 * before


MEETS_ZEROS = "it meets only zeros, as in one step of a recurrent cell: right where later steps bring others"
CANCELS = "what it adds in one place cancels in another, as in a shared layer: right if that is meant"


def of_stepped(name):
    return trained.check(subject_of(bridge.to_linen(getattr(stepped, name)), RANDOM), full=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("Cell", f"params/h/kernel got a zero gradient: {MEETS_ZEROS}"),
        ("StateSpace", f"params/a got a zero gradient: {MEETS_ZEROS}"),
        ("CarriedState", f"params/h/kernel got a zero gradient: {MEETS_ZEROS}"),
        ("Siamese", f"params/encoder/bias got a zero gradient: {CANCELS}"),
        ("SameViews", f"params/encoder/bias, params/encoder/kernel got a zero gradient: {CANCELS}"),
        ("Ranked", f"params/encoder/bias got a zero gradient: {CANCELS}"),
    ],
)
def test_zero_in_this_call_only_warns(name, detail):
    check = of_stepped(name)
    assert (check.verdict, check.detail) == (Verdict.warn, detail)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("StoppedCell", "params/h/kernel"),
        ("ArgmaxCell", "params/h/kernel"),
        ("RoundedSpace", "params/a"),
        ("StoppedSiamese", "params/encoder/bias, params/encoder/kernel"),
        ("SignRanked", "params/encoder/bias, params/encoder/kernel"),
        ("Masked", "params/linear/bias, params/linear/kernel"),
    ],
)
def test_zero_by_the_code_fails(name, path):
    check = of_stepped(name)
    assert check.verdict is Verdict.fail
    assert check.detail.startswith(f"{path} can't be trained: the gradient is zero ")


def test_a_weight_beyond_a_threshold_is_trained():
    assert of_stepped("Thresholded").verdict is Verdict.passed


@pytest.mark.slow
def test_hosts_of_such_layers():
    hosts = [
        stepped.MaskingHost(bridge.to_linen(nnx.Linear, 4, 4)),
        stepped.ScanningHost(bridge.to_linen(stepped.Cell)),
        stepped.ScanningHost(bridge.to_linen(stepped.StoppedCell)),
    ]
    checks = [trained.check(subject_of(host, RANDOM), full=True) for host in hosts]
    assert [check.verdict for check in checks] == [Verdict.fail, Verdict.warn, Verdict.fail]


def seen(name, *, full=False, **call):
    subject = subject_of(bridge.to_linen(getattr(planted, name)), RANDOM, call=call)
    return trained.check(subject, full=full)


@pytest.mark.parametrize(
    ("name", "call", "leaf", "words", "typed"),
    [
        ("HeadWhenTraining", {}, "aux/kernel", "but one does with train=True", "+layer.call.train=true"),
        ("TokenWhereMasked", {}, "token", "but one does with an array as mask", None),
        (
            "Autoencoder",
            {"nnx_method": "encode"},
            "decoder/kernel",
            "but one of the method __call__ does",
            "layer.nnx_method=__call__",
        ),
        ("SowsOfWeight", {}, "probe/kernel", "only what it sows: right as a part of the loss", None),
    ],
)
def test_weights_of_another_call_get_a_warning(name, call, leaf, words, typed):
    check = seen(name, **call)
    assert (check.verdict, check.fix) == (Verdict.warn, typed)
    assert check.detail == f"no output of this call depends on params/{leaf}, {words}"


@pytest.mark.parametrize(
    ("name", "leaf"),
    [("HeadNeverUsed", "aux/kernel"), ("TokenForgotten", "token"), ("TokenByKey", "token")],
)
def test_weights_of_no_call_fail(name, leaf):
    check = seen(name)
    assert check.verdict is Verdict.fail
    assert check.detail == f"params/{leaf} can't be trained: no output depends on it"


def test_what_is_typed_for_another_call_uses_the_weights(of_config):
    words = ("layer=custom", "layer.target=trained_layers.HeadWhenTraining", "input_shape=[2,4]")
    assert trained.check(of_config(*words), full=False).verdict is Verdict.warn
    assert trained.check(of_config(*words, "+layer.call.train=true"), full=True).verdict is Verdict.passed
    encoder = ("layer=custom", "layer.target=trained_layers.Autoencoder", "input_shape=[2,4]")
    assert trained.check(of_config(*encoder, "layer.nnx_method=encode"), full=False).verdict is Verdict.warn
    assert trained.check(of_config(*encoder, "layer.nnx_method=__call__"), full=True).verdict is Verdict.passed


@pytest.mark.filterwarnings("ignore:Found unknown module paths")
def test_a_codebook_that_a_sown_loss_trains_gets_a_warning():
    check = seen("Codebook", full=True)
    assert (check.verdict, check.fix) == (Verdict.warn, None)
    assert check.detail == "params/codes got a gradient through what the call sows alone: right as a part of the loss"
    silent = seen("SilentCodebook", full=True)
    assert silent.verdict is Verdict.fail
    assert silent.detail == "params/codes can't be trained: the gradient is zero whatever the data"


def test_a_broken_gradient_of_x_fails():
    check = seen("RootWherePositive", full=True)
    assert (check.verdict, check.evidence) == (Verdict.fail, {"non_finite_gradient": ["x"]})
    assert check.detail == (
        "what comes before can't be trained: the gradient of x is NaN or infinite where the output is not"
    )
    assert check.fix == trained.FINITE
    assert seen("SafeRoot", full=True).verdict is Verdict.passed


def test_an_x_without_gradient_gets_a_warning():
    check = seen("RoundsInput", full=True)
    assert (check.verdict, check.evidence) == (Verdict.warn, {"zero_gradient": ["x"]})
    assert check.detail == "no gradient reaches x: right where nothing before is trained"
    assert seen("RoundsStraight", full=True).verdict is Verdict.passed
    tokens = subject_of(bridge.to_linen(nnx.Embed, 5, planted.WIDTH), jnp.arange(4) % 5)
    assert trained.check(tokens, full=True).verdict is Verdict.passed, "integers have none"
