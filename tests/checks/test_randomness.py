"""Checks 2 and 3, nothing invented and streams: where the random numbers of apply come from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common_layers import COMMON
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge as nnx_bridge

from runner.checks import nothing_invented, streams
from runner.checks.probes.subject import subject_of
from runner.checks.programs import draws
from runner.commands import main
from runner.config.composing.composed import Config
from runner.experiment import execute, failures
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.job import Job
from runner.records.record import FailureKind, Verdict
from runner.sweep import validate

QUICK = ("timing=off", "checks.eager=never")
LAYERS = COMMON
X = jnp.ones((2, 8))
LINEAR = nnx_bridge.to_linen(nnx.Linear, 8, 8)
KEPT_KEY = jax.random.key(3)

MASK_FROM_NOWHERE = (
    "apply is not given the stream dropout: what is drawn from there is the same at every call, from key 0"
)
GIVE_DROPOUT = """variables = model.init({'params': k1, 'dropout': k2}, x)
output = model.apply(variables, x, rngs={'dropout': k3})"""
LAZY_INIT = """# at the end of the constructor, for every bridge.ToNNX in it; x: an array of the shape that they take
bridge.lazy_init(self.inner, x)"""
OWN_STREAM = """self.rngs = rngs  # in the constructor
key = self.rngs.noise()  # in the call, for nnx.Rngs(0); then give apply rngs={'noise': key}"""
KEY_EACH = "k1, k2 = jax.random.split(key)  # one key for each draw; of a stream, call rngs.dropout() for each"


def dropout():
    return nnx_bridge.to_linen(nnx.Dropout, 0.5, deterministic=False)


class TwoDropouts(nn.Module):
    @nn.compact
    def __call__(self, x):
        return {"first": dropout()(x), "second": dropout()(x)}


class LinenDropout(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(x)


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        def body(layer, x, _):
            return layer(x), None

        split = {"params": True, "dropout": True}
        return nn.scan(body, variable_axes={"params": 0}, split_rngs=split, length=3)(dropout(), x, None)[0]


class Inner(nnx.Module):
    """Linen inside NNX."""

    def __init__(self, *, lazy: bool, rngs):
        self.inner = nnx_bridge.ToNNX(nn.Dense(8), rngs=rngs)
        if lazy:
            nnx_bridge.lazy_init(self.inner, jnp.ones((1, 8)))

    def __call__(self, x):
        return self.inner(x)


class OwnKey(nnx.Module):
    def __init__(self, *, rngs):
        pass

    def __call__(self, x):
        return x + nnx.Rngs(0).noise.normal(x.shape)


class OwnStream(nnx.Module):
    """What the fix of `OwnKey` says."""

    def __init__(self, *, rngs):
        self.rngs = rngs

    def __call__(self, x):
        key = self.rngs.noise()
        return x + jax.random.normal(key, x.shape)


class RawKey(nnx.Module):
    def __init__(self, *, rngs):
        pass

    def __call__(self, x):
        return jax.jit(lambda x: x + jax.random.normal(jax.random.PRNGKey(0), x.shape))(x)


class KeptKey(nnx.Module):
    def __init__(self, *, rngs):
        pass

    def __call__(self, x):
        return x + jax.random.normal(KEPT_KEY, x.shape)


class OneKeyTwice(nnx.Module):
    def __init__(self, *, rngs):
        self.rngs = rngs

    def __call__(self, x):
        key = self.rngs.dropout()
        return jax.random.bernoulli(key, 0.5, x.shape) * x, jax.random.bernoulli(key, 0.5, x.shape) * x


class TwoKeys(nnx.Module):
    """What the fix of `OneKeyTwice` says."""

    def __init__(self, *, rngs):
        self.rngs = rngs

    def __call__(self, x):
        k1, k2 = jax.random.split(self.rngs.dropout())
        return jax.random.bernoulli(k1, 0.5, x.shape) * x, jax.random.bernoulli(k2, 0.5, x.shape) * x


class Seldom(nnx.Module):
    """Depends on its key, but not so that it shows."""

    def __init__(self, *, rngs):
        self.rngs = rngs

    def __call__(self, x):
        return x * (jax.random.uniform(self.rngs.dropout()) < 2)


def invented(model, *, full=False, **given):
    return nothing_invented.check(subject_of(model, X, **given), full=full)


def checked(model, *, full=False, **given):
    return streams.check(subject_of(model, X, **given), full=full)


def found(function, *arguments, names="kx"):
    return draws.find(jax.make_jaxpr(function)(*arguments), list(names))


# Check 2.


@pytest.mark.sampled
@pytest.mark.parametrize("name", LAYERS)
def test_conf_layers_pass_both_checks(make_run, name):
    run = make_run(f"layer={name}")
    subject = execute.subject(make_draft(run, identity_of(run)), run)
    assert nothing_invented.check(subject, full=False).verdict is Verdict.passed
    assert streams.check(subject, full=False).verdict is Verdict.passed


def test_given_weights_leave_nothing_to_draw():
    check = invented(LINEAR)
    assert (check.verdict, check.detail) == (Verdict.passed, "apply draws nothing")
    assert invented(dropout()).detail == "all that apply draws comes from a stream that it is given"


def test_missing_weights_fix_supplies_them():
    check = invented(LINEAR, variables={})
    scope = {"model": LINEAR, "variables": {}, "x": X, "k1": jax.random.key(1)}
    exec(str(check.fix), scope)
    assert invented(LINEAR, variables=scope["variables"]).verdict is Verdict.passed


def test_invented_constants_are_found():
    check = invented(LINEAR, variables={"params": {"kernel": jnp.ones((8, 8))}})
    assert check.detail == "apply makes up params/bias, as constants"
    assert check.evidence["num_draws"] == 0


def test_misplaced_weights_are_not_invented():
    weights = LINEAR.init(jax.random.key(0), X)["params"]
    assert invented(LINEAR, variables={"weights": weights}).verdict is Verdict.passed


def test_invented_masks_name_their_stream():
    check = invented(dropout(), rngs=())
    assert (check.verdict, check.detail, check.fix) == (Verdict.fail, MASK_FROM_NOWHERE, GIVE_DROPOUT)
    assert check.evidence["streams"] == ["dropout"]


def test_uninitialised_linen_inside_nnx_is_fixed():
    check = invented(nnx_bridge.to_linen(Inner, lazy=False))
    assert (check.verdict, check.fix) == (Verdict.fail, LAZY_INIT)
    assert invented(nnx_bridge.to_linen(Inner, lazy=True)).verdict is Verdict.passed


@pytest.mark.parametrize("layer", [OwnKey, RawKey])
def test_keys_made_in_calls_are_located(layer):
    check = invented(nnx_bridge.to_linen(layer))
    (line,) = check.evidence["keys_made_at"]
    assert line.startswith("test_randomness.py:")
    assert f" in {layer.__name__}.__call__" in line
    assert (check.verdict, check.fix) == (Verdict.fail, OWN_STREAM)
    assert check.detail == f"the layer makes a key of its own ({line}): what it draws is the same at every call"
    assert invented(nnx_bridge.to_linen(OwnStream)).verdict is Verdict.passed


def test_keys_kept_since_import_are_found():
    check = invented(nnx_bridge.to_linen(KeptKey))
    assert check.detail.startswith("apply draws from a key that it is not given (test_randomness.py:")
    assert check.detail.endswith(" in KeptKey.__call__): what it draws is the same at every call")
    assert (check.verdict, check.fix) == (Verdict.fail, OWN_STREAM)


def test_invented_draws_in_scans_are_found():
    assert invented(Scanned()).verdict is Verdict.passed
    assert invented(Scanned(), rngs=()).detail == MASK_FROM_NOWHERE


# Check 3.


def test_init_and_apply_streams_are_listed():
    check = checked(dropout())
    assert check.detail == "init needs params, dropout; apply draws from dropout, each time with another key"
    assert (check.evidence["init"], check.evidence["apply"]) == (["params", "dropout"], ["dropout"])
    assert checked(LINEAR).detail == "init needs params; apply draws from no stream"


@pytest.mark.slow
def test_two_dropouts_without_rngs_share_masks():
    model = TwoDropouts()
    check = checked(model, rngs=())
    assert (check.verdict, check.fix) == (Verdict.fail, GIVE_DROPOUT)
    shared = model.apply({}, X)
    np.testing.assert_array_equal(shared["first"], shared["second"])
    scope = {"model": model, "x": X} | {f"k{num}": jax.random.key(num) for num in (1, 2, 3)}
    exec(GIVE_DROPOUT, scope)
    assert not np.array_equal(scope["output"]["first"], scope["output"]["second"])
    assert checked(model).verdict is Verdict.passed


def test_a_misspelt_stream_is_named():
    check = checked(dropout(), rngs=("params", "dropuot"))
    assert (check.verdict, check.evidence["unused"]) == (Verdict.fail, ["dropuot"])
    assert check.detail == (
        "apply needs the stream dropout and is not given it; nothing draws from dropuot, is dropout meant?"
    )


def test_default_stream_serves_nnx_only():
    check = checked(TwoDropouts(), rngs=["default"])
    assert (check.verdict, check.evidence["apply"]) == (Verdict.passed, ["default"])
    assert checked(LinenDropout(), rngs=["default"]).verdict is Verdict.fail


def test_init_accepts_all_or_default_streams():
    for given in (["params", "dropout"], ["default"], None):
        assert checked(dropout(), init_rngs=given).verdict is Verdict.passed
    check = checked(dropout(), init_rngs=[])
    assert check.detail.startswith("init needs params, dropout, is given none and raises ")


def test_missing_linen_dropout_stream_is_found():
    assert subject_of(LinenDropout(), X).needs.streams == ("params", "dropout")
    check = checked(LinenDropout(), rngs=())
    assert (check.verdict, check.detail) == (Verdict.fail, "apply needs the stream dropout and is not given it")


def test_unused_streams_get_a_warning():
    check = checked(dropout(), rngs=("dropout", "noise"))
    assert (check.verdict, check.detail) == (Verdict.warn, "apply is given noise, and nothing draws from it")
    assert check.fix == "output = model.apply(variables, x, rngs={'dropout': dropout_key})"


def test_init_only_streams_may_be_given():
    model = nnx_bridge.to_linen(nnx.Dropout, 0.0, deterministic=False)
    check = checked(model)
    assert (check.verdict, check.evidence["apply"], check.evidence["given"]) == (Verdict.passed, [], ["dropout"])


def test_sharing_one_key_across_masks_fails():
    check = checked(nnx_bridge.to_linen(OneKeyTwice))
    assert (check.verdict, check.fix) == (Verdict.fail, KEY_EACH)
    assert check.detail.startswith("2 draws of shape [2, 8] come from one key (test_randomness.py:")
    assert check.detail.endswith(" in OneKeyTwice.__call__): their masks are equal")
    assert checked(nnx_bridge.to_linen(TwoKeys)).verdict is Verdict.passed


def test_invented_weights_are_not_masks():
    class Twins(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nnx_bridge.to_linen(nnx.Linear, 8, 8)(nnx_bridge.to_linen(nnx.Linear, 8, 8)(x))

    assert checked(Twins(), variables={}).verdict is Verdict.passed


def test_full_check_varies_the_keys():
    assert checked(dropout(), full=True).verdict is Verdict.passed
    check = checked(nnx_bridge.to_linen(Seldom), full=True)
    assert (check.verdict, check.detail) == (Verdict.warn, "the output is the same for 8 keys of dropout")


# Runs.


def refused(run):
    (identity,), drafts = validate.validate([Config(run=run)])
    with pytest.raises(failures.CheckFailed) as caught:
        execute.prepare(drafts[identity.program_id, run.device], run)
    return execute.failed(Job(run=run, identity=identity), caught.value).record


@pytest.mark.slow
def test_strict_run_without_dropout_stream_fails(make_run):
    record = refused(make_run(*QUICK, "layer=dropout", "layer.rngs=[]"))
    assert record.error is not None
    assert (record.error.kind, record.error.message) == (FailureKind.check, f"nothing_invented: {MASK_FROM_NOWHERE}")
    fix = next(check.fix for check in record.checks if check.name == "streams")
    assert fix == f"layer.rngs=null\n# in a pipeline of your own:\n{GIVE_DROPOUT}"
    run = make_run(*QUICK, "layer=dropout", "layer.rngs=[]", str(fix).splitlines()[0])
    assert streams.check(execute.subject(make_draft(run, identity_of(run)), run), full=False).verdict is Verdict.passed


@pytest.mark.slow
def test_unused_streams_suggest_an_override(make_run):
    run = make_run("layer=dropout", "layer.rngs=[dropout,noise]")
    check = streams.check(execute.subject(make_draft(run, identity_of(run)), run), full=False)
    assert check.fix == "'layer.rngs=[dropout]'"
    run = make_run("layer=dropout", "layer.rngs=[dropout,noise]", str(check.fix).strip("'"))
    assert streams.check(execute.subject(make_draft(run, identity_of(run)), run), full=False).verdict is Verdict.passed


# Draws of a traced function.

KEY = jax.random.key(0)
ZERO = jnp.zeros(4)


def test_dead_draws_do_not_count():
    dead = found(lambda k, x: (jax.random.normal(jax.random.key(0), x.shape), x)[1], KEY, ZERO)
    assert (dead.draws, dead.made_up, dead.invented) == ((), (), False)


def test_typed_and_raw_keys_are_equivalent():
    for key in (KEY, jax.random.PRNGKey(0)):
        draw = found(lambda k, x: x + jax.random.normal(jax.random.fold_in(k, 1), x.shape), key, ZERO)
        assert [(one.shape, one.sources) for one in draw.draws] == [((4,), {"k"})]


def made_up_in(body, key):
    traced = found(body, key, ZERO)
    return len(traced.made_up), traced.invented, [sorted(one.sources) for one in traced.draws]


def noise(key, x):
    return x + jax.random.normal(key, x.shape)


def seeded(x):
    return noise(jax.random.key(0), x)


@jax.custom_jvp
def custom(x):
    return seeded(x)


custom.defjvp(lambda primals, tangents: (custom(*primals), *tangents))


@jax.custom_vjp
def custom_backwards(x):
    return seeded(x)


custom_backwards.defvjp(lambda x: (custom_backwards(x), None), lambda _, g: (g,))


@pytest.mark.parametrize(
    "body",
    [
        jax.jit(seeded),
        jax.checkpoint(seeded),
        custom,
        custom_backwards,
        lambda x: jax.lax.cond(x[0] > 0, seeded, lambda x: x, x),
        lambda x: jax.lax.fori_loop(0, x.shape[0], lambda _, x: seeded(x), x),
        lambda x: jax.lax.while_loop(lambda x: x[0] < 1, seeded, x),
        jax.vmap(lambda x: seeded(x[None])[0]),
    ],
    ids=["jit", "remat", "custom_jvp", "custom_vjp", "cond", "scan", "while", "vmap"],
)
def test_keys_made_in_transformations_are_found(body):
    count, is_invented, sources = made_up_in(lambda k, x: body(x), KEY)
    assert (count, is_invented, sources) == (1, True, [[]])


@pytest.mark.parametrize("around", [jax.jit, jax.checkpoint, lambda function: function])
def test_keys_kept_outside_are_found(around):
    kept = np.array([1, 2], np.uint32)
    body = around(lambda x: noise(jax.random.wrap_key_data(kept), x))
    assert made_up_in(lambda k, x: body(x), KEY) == (0, True, [[]])


def test_loop_carried_keys_keep_their_source():
    def step(carry, _):
        key, x = carry
        key, now = jax.random.split(key)
        return (key, noise(now, x)), None

    def loop(k, x):
        return jax.lax.scan(step, (k, x), length=3)[0][1]

    assert made_up_in(loop, KEY) == (0, False, [["k"]])
    assert made_up_in(lambda k, x: loop(jax.random.key(1), x), KEY) == (1, True, [[]])


def test_later_loop_rounds_are_followed():
    def swap(_, carry):
        first, second, x = carry
        return second, first, noise(jax.random.fold_in(KEY, first), x)

    two = jnp.uint32(0), jnp.uint32(1)
    traced = found(lambda k, x: jax.lax.fori_loop(0, 3, swap, (two[0], k, x))[2], jnp.uint32(1), ZERO)
    assert [one.sources for one in traced.draws] == [{"k"}]


def test_equal_draws_need_key_and_shape():
    def draw(k, x):
        again, other, longer = jax.random.normal(k, (4,)), jax.random.normal(jax.random.split(k)[0], (4,)), (5,)
        return jax.random.normal(k, (4,)) + again + other + x, jax.random.normal(k, longer)

    numbers = [one.number for one in found(draw, KEY, ZERO).draws]
    assert len(numbers) == 4
    assert len(set(numbers)) == 3


@pytest.mark.slow
def test_refused_runs_point_to_show(tmp_path, capsys):
    words = ["layer=dropout", "layer.rngs=[]", f"output_root={tmp_path}", "sweep=s", "tracking=disabled", "timing=off"]
    assert main.main(words) == 1
    (folder,) = (tmp_path / "s" / "runs").iterdir()
    assert capsys.readouterr().err.endswith(f"\n  what fixes it: bridge-runner show {folder}\n")
    assert main.main(["show", str(folder)]) == 0
    assert "\n            layer.rngs=null\n" in capsys.readouterr().out
