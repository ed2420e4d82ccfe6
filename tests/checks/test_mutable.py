"""Check 4, `mutable`: dropped updates, updates that can't be given back, and the native module's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
import state_layers
from common_layers import COMMON
from flax import nnx
from flax.nnx import bridge

from runner.checks import mutable
from runner.checks.probes.subject import subject_of
from runner.records.record import Verdict

HERE = __name__
LAYERS = COMMON
X = jnp.ones((2, 4))
TOKEN = jnp.ones((1, 1, 8))

# Flax says of a variable that it has no place for that it is unknown, then fails or not.
unknown_paths = pytest.mark.filterwarnings("ignore:Found unknown module paths", "ignore:Using 'Module.sow")


class Sows(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        y = self.norm(self.linear(x))
        self.sow(nnx.Intermediate, "hidden", y)
        return y


class Decodes(nnx.Module):
    """Makes its cache in the first call."""

    def __init__(self, *, rngs):
        self.attention = nnx.MultiHeadAttention(2, 8, decode=True, rngs=rngs)

    def __call__(self, x):
        if self.attention.cached_key is None:
            self.attention.init_cache((1, 4, 8))
        return self.attention(x)


class CountsLate(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        if not hasattr(self, "count"):
            self.count = nnx.BatchStat(jnp.zeros(()))
        self.count[...] += 1
        return self.linear(x) + self.count[...]


class Spectral(nnx.Module):
    def __init__(self, *, rngs):
        self.norm = nnx.SpectralNorm(nnx.Linear(4, 4, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.norm(x, update_stats=True)


class Noisy(nnx.Module):
    """Keeps the last mask of a dropout."""

    def __init__(self, *, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Cache(jnp.zeros((2, 4)))

    def __call__(self, x):
        self.last[...] = self.dropout(x)
        return self.last[...]


def subject(cls, x=X, *, variables=None, names=None, **kwargs):
    return subject_of(bridge.to_linen(cls, **kwargs), x, variables=variables, mutable=names)


@pytest.mark.sampled
@pytest.mark.parametrize("layer", LAYERS)
def test_conf_layers_drop_no_updates(of_config, layer):
    check = mutable.check(of_config(f"layer={layer}"), full=False)
    assert check.verdict is Verdict.passed
    assert check.detail == (
        "apply changes batch_stats, which come back as updates"
        if layer == "batch_norm"
        else "apply changes no collection that has to come back"
    )


def test_dropped_update_fix_works():
    norm = bridge.to_linen(nnx.BatchNorm, num_features=4)
    check = mutable.check(subject_of(norm, X, mutable=[]), full=False)
    assert (check.verdict, check.evidence) == (Verdict.fail, {"dropped": ["batch_stats"]})
    assert check.fix == (
        "output, updates = model.apply(variables, x, mutable=['batch_stats'])\n"
        "variables = {**variables, **updates}\n"
        "# here: layer.mutable=null"
    )
    names = {"model": norm, "x": X, "variables": norm.init(jax.random.key(0), X)}
    exec(check.fix, names)
    assert names["variables"]["batch_stats"]["mean"].tolist() != [0, 0, 0, 0]
    assert mutable.check(subject_of(norm, X, mutable=["batch_stats"]), full=False).verdict is Verdict.passed


def test_mutable_setting_decides_the_verdict(of_config):
    assert mutable.check(of_config("layer=batch_norm", "layer.mutable=[]"), full=False).verdict is Verdict.fail
    assert mutable.check(of_config("layer=batch_norm", "layer.mutable=null"), full=False).verdict is Verdict.passed


@pytest.mark.parametrize(("cls", "lost"), [(Spectral, "batch_stats, params"), (Noisy, "cache")])
def test_every_dropped_collection_is_named(cls, lost):
    check = mutable.check(subject(cls, names=[]), full=False)
    assert check.detail == f"apply changes {lost} and is not asked for it: the update is dropped without a word"
    assert ("rngs=rngs" in check.fix) == (cls is Noisy)


def test_unknown_mutable_collections_suggest_the_nearest():
    check = mutable.check(subject(nnx.BatchNorm, names=["batch_stats", "batch_stat"], num_features=4), full=False)
    assert (check.verdict, check.fix) == (Verdict.warn, "layer.mutable=null")
    assert (
        check.detail
        == "mutable names batch_stat (meant: batch_stats?), which neither the variables nor the updates have"
    )


def test_unchanged_mutable_collections_pass():
    assert mutable.check(subject(nnx.Linear, names=["params"], in_features=4, out_features=2), full=False).verdict is (
        Verdict.passed
    )


@pytest.mark.slow
@pytest.mark.parametrize("target", ["Spectral", "Noisy"])
def test_the_updates_are_the_native_modules(of_config, target):
    given = of_config("layer=custom", f"layer.target={HERE}.{target}", "input_shape=[2,4]")
    check = mutable.check(given, full=True)
    changed = "batch_stats, params" if target == "Spectral" else "cache"
    assert check.verdict is (Verdict.warn if target == "Spectral" else Verdict.passed)
    assert check.detail.startswith(
        f"apply changes {changed}, which come back as updates, equal to the native module's bit for bit"
    )
    assert check.evidence == {"num_equal": 4 if target == "Spectral" else 1}


def test_differing_native_updates_are_named(of_config):
    given = of_config("layer=batch_norm")

    def other(rngs):
        return nnx.BatchNorm(4, momentum=0.5, rngs=rngs)

    object.__setattr__(given.layer, "construct", other)
    check = mutable.check(given, full=True)
    assert check.verdict is Verdict.fail
    assert check.detail == (
        "apply changes batch_stats, which come back as updates, but batch_stats/mean, batch_stats/var differ from the "
        "native module's"
    )


@unknown_paths
def test_sown_value_fix_drops_them():
    model = bridge.to_linen(Sows)
    check = mutable.check(subject_of(model, X), full=False)
    assert (check.verdict, check.evidence["made"]) == (Verdict.warn, ["intermediates"])
    assert check.detail == (
        "apply sows intermediates/hidden/0; given back as variables they raise "
        "ValueError: Expected 'hidden' to be a Variable, got tuple"
    )
    names = {"model": model, "x": X, "variables": model.init(jax.random.key(0), X)}
    exec(check.fix, names)
    exec(check.fix, names)
    assert sorted(names["variables"]) == ["batch_stats", "params"]
    given = subject_of(model, X, variables=names["variables"] | {"intermediates": names["intermediates"]})
    refused = mutable.check(given, full=False)
    assert refused.verdict is Verdict.fail
    exec(refused.fix, names | {"variables": given.given}, names)
    assert sorted(names["variables"]) == ["batch_stats", "params"]
    assert mutable.check(subject_of(model, X, mutable=["batch_stats"]), full=False).verdict is Verdict.passed


@pytest.mark.slow
@unknown_paths
def test_call_made_caches_need_a_factory():
    model = bridge.to_linen(Decodes)
    variables = model.init(jax.random.key(0), TOKEN)
    cache = model.apply(variables, TOKEN, mutable=["cache"])[1]
    check = mutable.check(subject_of(model, TOKEN, variables={**variables, **cache}), full=True)
    assert check.verdict is Verdict.fail
    assert check.detail.startswith(
        "cache/attention/cache_index, cache/attention/cached_key, cache/attention/cached_value are made by a call, "
        "not by the constructor: apply that is given them raises "
        "ValueError: Expected a subgraph for 'cache_index', but got: Array("
    )
    assert check.fix == (
        "def make_layer(*, rngs, **kwargs):\n"
        "    layer = Decodes(**kwargs, rngs=rngs)\n"
        "    layer.attention.init_cache((1, 4, 8))\n"
        "    return layer  # here: layer.target=my_module.make_layer"
    )
    names = {"Decodes": Decodes}
    exec(check.fix, names)
    assert mutable.check(subject(names["make_layer"], TOKEN), full=False).verdict is Verdict.passed


@unknown_paths
def test_call_made_variables_need_a_factory():
    check = mutable.check(subject(CountsLate), full=False)
    assert check.verdict is Verdict.fail
    assert check.detail.startswith(
        "batch_stats/count is made by a call, not by the constructor: "
        "the next apply that is given it raises TypeError: "
    )
    names = {"CountsLate": CountsLate, "nnx": nnx, "jnp": jnp}
    exec(check.fix, names)
    assert mutable.check(subject(names["make_layer"]), full=False).verdict is Verdict.passed


@unknown_paths
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ReshapesMean", "batch_stats/mean (init: float32[4], update: float32[2])"),
        ("DriftsToFloat", "batch_stats/step (init: int32[], update: float32[])"),
        ("RewritesParam", "the call changes params/w in place"),
        ("MakesParam", "params/w is made by a call, not by the constructor: init leaves it out"),
    ],
)
def test_unkeepable_updates_fail(name, words):
    check = mutable.check(subject(getattr(state_layers, name)), full=False)
    assert check.verdict is Verdict.fail
    assert words in check.detail


@pytest.mark.parametrize("name", ["MovesMean", "NormalisesAtUse", "WritesSameParam"])
def test_an_update_that_fits_passes(name):
    assert mutable.check(subject(getattr(state_layers, name)), full=False).verdict is Verdict.passed


def test_spectral_norm_params_get_a_warning():
    check = mutable.check(subject(Spectral), full=False)
    assert check.verdict is Verdict.warn
    assert "flax's own normalisation writes params/norm/layer_instance/kernel in place" in check.detail


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("CountsCalls", "calls"),
        ("WarmsUp", "calls"),
        ("FillsList", "seen"),
        ("RunsBareMean", "mean"),
        ("TakesLast", "last"),
        ("CountsInRecord", "notes"),
        ("MeanInRecord", "notes"),
        ("FillsQueue", "notes"),
        ("DrawsFromGenerator", "notes"),
    ],
)
def test_state_in_a_python_attribute_fails(name, attribute):
    check = mutable.check(subject(getattr(state_layers, name)), full=False)
    assert check.verdict is Verdict.fail
    assert check.evidence == {"attributes": [attribute]}
    assert check.detail == (
        f"the call changes {attribute}, which is an attribute in Python and no nnx.Variable: apply builds the module "
        "again, so the change is lost before the next call, and mutable can't name it"
    )


@pytest.mark.parametrize(
    "name",
    ["CountsForNobody", "FillsCache", "TransposesOnce", "MovesMean", "Normed", "StashesInRecord", "FillsRecord"],
)
def test_attributes_never_read_later_pass(name):
    assert mutable.check(subject(getattr(state_layers, name)), full=False).verdict is Verdict.passed


@pytest.mark.parametrize(("name", "held"), [("KeepsKey", "key"), ("SplitsKey", "keys.0"), ("WarmsUpByCount", "step")])
def test_rng_state_of_its_own_fails(name, held):
    check = mutable.check(subject(getattr(state_layers, name)), full=False)
    assert check.verdict is Verdict.fail
    assert check.evidence == {"rng_state": [held]}
    assert check.detail == (
        f"the call reads {held}, which is rng state of its own, in no stream of nnx.Rngs: the bridge stores no rng "
        "state, and apply makes it again from the keys of that call"
    )
    wanted = "drawn once" if "key" in held else f"self.{held} = nnx.BatchStat(…)"
    assert wanted in check.fix


@pytest.mark.parametrize(
    "name", ["HoldsStreams", "KeepsConstantKey", "CountsUnread", "WarmsUpByStatistic", "DrawsOnce"]
)
def test_rng_state_that_is_given_or_unread_passes(name):
    assert mutable.check(subject(getattr(state_layers, name)), full=False).verdict is Verdict.passed


def test_what_is_said_of_rng_state_is_so():
    """The native module gives the same features each time; the bridged one others, with the same variables."""
    native = state_layers.KeepsKey(rngs=nnx.Rngs(0))
    assert (native(X) == native(X)).all()
    model = bridge.to_linen(state_layers.KeepsKey)
    variables = model.init({"params": jax.random.key(0), "features": jax.random.key(1)}, X)
    first, second = (model.apply(variables, X, rngs={"features": jax.random.key(seed)}) for seed in (2, 3))
    assert not (first == second).all()


def test_rng_state_in_a_host_is_named_by_its_place(of_config):
    check = mutable.check(of_config("host=mlp", *state("KeepsKey"), "input_shape=[2,4]", "features=4"), full=False)
    assert check.verdict is Verdict.fail
    assert check.detail.startswith("the call reads layer.key, which is rng state of its own")


def state(name):
    """The words that choose a layer of `state_layers`."""
    drop = ("~layer.kwargs.in_features", "~layer.kwargs.out_features")
    return (f"layer.target=state_layers.{name}", *drop)


@pytest.mark.parametrize("name", ["ReplacesCount", "ReplacesUnread"])
def test_an_array_in_the_place_of_a_variable_fails(name):
    check = mutable.check(subject(getattr(state_layers, name)), full=False)
    assert check.verdict is Verdict.fail
    assert check.evidence == {"replaced": ["batch_stats/count"]}
    assert check.detail == (
        "the call puts an array in the place of batch_stats/count, which is a Variable: the bridge returns it in a "
        "collection that apply does not read, so the update is lost"
    )
    assert check.fix == "self.count[...] = …  # in place of self.count = …"


def test_a_variable_that_is_written_to_passes():
    assert mutable.check(subject(state_layers.WritesCount), full=True).verdict is Verdict.passed
