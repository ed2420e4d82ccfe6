"""`layer.wrapper`, `layer.metadata_fn`, and classes made by `to_linen_class` as `layer.target`."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import linen_classes
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from runner.bridge import hosts, targets, wrap, wrapper
from runner.bridge.products import taken_apart
from runner.config.settings.layer import HostSettings, LayerSettings
from runner.errors import ConfigError, LayerError
from runner.experiment.identity import identity_of

X = jnp.ones((2, 4))
KEYS = {"params": jax.random.PRNGKey(0)}


def layer(target="Plain", **settings):
    kwargs = settings.pop("kwargs", {"dim": 4})
    return LayerSettings(target=f"linen_classes.{target}", kwargs=kwargs, **settings)


def made(target="Plain", **settings):
    with nnx.use_eager_sharding(False):
        model = wrap.wrap(layer(target, **settings)).model
        return model, model.init(KEYS, X)["params"]["weight"]


@pytest.mark.parametrize(
    ("target", "wraps", "by", "boxed"),
    [
        ("PlainToLinen", "ToLinen", 3.0, 1.0),
        ("SubclassToLinen", "ToLinen", 1.0, 1.0),
        ("PipelineToLinen", "OwnToLinen", 1.0, 0.5),
    ],
)
def test_to_linen_class_products_are_unwrapped(target, wraps, by, boxed):
    model, weight = made(target)
    plain, own = made()
    assert type(model).__mro__[1].__name__ == wraps
    assert type(model).__name__ == taken_apart(getattr(linen_classes, target)).wrapper.__name__
    assert np.array_equal(weight, own * boxed)
    assert np.array_equal(model.apply({"params": {"weight": own}}, X), plain.apply({"params": {"weight": own}}, X) * by)
    native = wrap.wrap(layer(target)).construct(nnx.Rngs(0))
    assert isinstance(native, linen_classes.Plain)
    assert native.by == by


@pytest.mark.parametrize("target", ["PlainToLinen", "SubclassToLinen", "PipelineToLinen", "twice"])
def test_bound_classes_get_their_sizes(target):
    filled = wrap.filled(layer(target, kwargs={}), (2, 4), 8)
    assert filled.kwargs == {"dim": 4}


def test_products_have_the_layer_source():
    assert targets.source_digest("linen_classes.PlainToLinen") == targets.source_digest("linen_classes.Plain")


@pytest.mark.parametrize(
    "found", [bridge.ToLinen, nn.Dense, linen_classes.NoWrapper, linen_classes.OwnToLinen, nnx.Linear]
)
def test_other_classes_are_no_product(found):
    assert taken_apart(found) is None


def test_a_linen_module_is_still_refused():
    with pytest.raises(LayerError, match="already is Linen and needs no bridge"):
        wrap.wrap(layer("NoWrapper", kwargs={}))


def test_a_wrapper_replaces_to_linen():
    model, weight = made(wrapper="linen_classes.OwnToLinen")
    assert type(model) is linen_classes.OwnToLinen
    assert np.array_equal(weight, made()[1])
    by_function, _ = made("Scale", wrapper="linen_classes.own_to_linen")
    assert type(by_function) is linen_classes.OwnToLinen
    assert by_function.metadata_fn is None
    assert hash(by_function) == hash(made("Scale", wrapper="linen_classes.own_to_linen")[0])


@pytest.mark.parametrize(
    ("metadata_fn", "box"),
    [("default", bridge.NNXMeta), ("none", jax.Array), ("logical", nn.LogicallyPartitioned)],
)
def test_the_boxes_are_chosen(metadata_fn, box):
    assert isinstance(made("Scale", metadata_fn=metadata_fn)[1], box)
    assert isinstance(made("Plain", metadata_fn=metadata_fn)[1], jax.Array)


def test_logical_keeps_the_axis_names():
    assert made("Scale", metadata_fn="logical")[1].names == ("embed",)


def test_a_function_of_ones_own_boxes():
    assert np.array_equal(made(metadata_fn="linen_classes.halved")[1], made()[1] / 2)


@pytest.mark.parametrize("call", [{}, {"double": True}])
@pytest.mark.parametrize("target", ["Plain", "PlainToLinen", "PipelineToLinen"])
def test_a_host_passes_on_wrapper_and_boxes(target, call):
    inner = wrap.wrap(layer(target, wrapper="linen_classes.OwnToLinen", metadata_fn="linen_classes.halved", call=call))
    host = hosts.put_around(inner, HostSettings(target="linen_classes.Modes", call={"train": False}))
    seen = []

    def watch(run, args, kwargs, context):
        seen.append(context.module)
        return run(*args, **kwargs)

    with nn.intercept_methods(watch):
        variables = host.init(KEYS["params"], ("params",), X)
    assert any(isinstance(one, linen_classes.OwnToLinen) and one.metadata_fn is linen_classes.halved for one in seen)
    ours = inner.apply({"params": variables["params"]["layer"]}, {}, (), X)[0]
    assert np.array_equal(host.apply(variables, {}, (), X)[0], ours)


@pytest.mark.parametrize(
    ("settings", "what", "suggestion"),
    [
        ({"wrapper": "linen_classes.NoWrapper"}, "has no field nnx_class", "layer.wrapper=flax.nnx.bridge.ToLinen"),
        ({"wrapper": "linen_classes.Plain"}, "is no flax.linen.Module", "layer.wrapper=flax.nnx.bridge.ToLinen"),
        ({"wrapper": "linen_classes.X"}, "a ArrayImpl can't be called", "layer.wrapper=flax.nnx.bridge.ToLinen"),
        ({"wrapper": "linen_classes.makes_no_module"}, "it gives a int", "layer.wrapper=flax.nnx.bridge.ToLinen"),
        ({"wrapper": "linen_classes.own_to_linn"}, "has no own_to_linn", "layer.wrapper=linen_classes.own_to_linen"),
        (
            {"wrapper": "linen_classes.own_to_linen", "metadata_fn": "logical"},
            "takes no metadata_fn",
            "layer.metadata_fn=default",
        ),
        ({"metadata_fn": "logcal"}, "it is none, logical, default or a dotted path", "layer.metadata_fn=logical"),
        (
            {"metadata_fn": "linen_classes.PlainToLine"},
            "has no PlainToLine",
            "layer.metadata_fn=linen_classes.PlainToLinen",
        ),
    ],
)
def test_what_does_not_wrap_is_refused(settings, what, suggestion, monkeypatch):
    monkeypatch.setattr(linen_classes, "X", X, raising=False)
    with pytest.raises((LayerError, ConfigError)) as refused:
        wrap.wrap(layer(**settings))
    assert what in str(refused.value)
    assert refused.value.suggestion == suggestion


@pytest.mark.slow
def test_defaults_do_not_change_an_id(make_run):
    run = make_run("layer=custom", "layer.target=linen_classes.Plain")
    same = identity_of(make_run("layer=custom", "layer.target=linen_classes.Plain", "layer.metadata_fn=default"))
    ids = {identity_of(run).program_id, same.program_id}
    assert len(ids) == 1
    for typed in ("layer.metadata_fn=none", "layer.wrapper=linen_classes.OwnToLinen", "layer.init_rngs=[params]"):
        ids.add(identity_of(make_run("layer=custom", "layer.target=linen_classes.Plain", typed)).program_id)
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({}, ""),
        (
            {"metadata_fn": "none"},
            "flax.nnx.bridge.ToLinen(linen_classes.Plain, kwargs=FrozenDict(dim=4), metadata_fn=None)",
        ),
        ({"wrapper": "linen_classes.own_to_linen"}, "linen_classes.own_to_linen(linen_classes.Plain, dim=4)"),
        (
            {"target": "PlainToLinen"},
            "flax.nnx.bridge.wrappers.ToLinen(functools.partial(linen_classes.Plain, by=3.0), "
            "kwargs=FrozenDict(dim=4), metadata_fn=flax.nnx.bridge.variables.to_linen_var)",
        ),
    ],
)
def test_the_wrapper_is_shown_as_code(settings, code):
    settings = layer(**settings)
    assert wrapper.code(settings) == code
    if code:
        import functools  # noqa: F401

        import flax  # noqa: F401
        from flax.core import FrozenDict  # noqa: F401

        assert eval(code) == wrap.wrap(settings).model or type(eval(code)) is type(wrap.wrap(settings).model).__mro__[1]
