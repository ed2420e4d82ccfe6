"""What a layer gets for the arguments that a config says: real lists, dicts and objects, text or functions."""

from __future__ import annotations

import functools

import argument_layers as layers
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from runner.bridge import hosts, lifts, wrap
from runner.bridge.needs import find_needs
from runner.bridge.rngs import root_key
from runner.checks import registry
from runner.config.settings.layer import HostSettings, LayerSettings
from runner.errors import UserError
from runner.records.record import Verdict

X = jnp.ones((2, 4))
HERE = "argument_layers"
CONFIG = {"widths": [4], "more": {"dout": 5}, "activation": "tanh"}


def wrapped(name, **kwargs):
    return wrap.wrap(LayerSettings(target=f"{HERE}.{name}" if "." not in name else name, kwargs=kwargs))


def kept(name, **kwargs):
    return wrapped(name, **kwargs).construct(nnx.Rngs(0)).value


def shapes(model, x=X):
    return [leaf.shape for leaf in jax.tree.leaves(find_needs(model, x, "mine").variables)]


def parity(model, x=X):
    [found] = registry.check_model(model.model, x, only="parity")
    return found.verdict, found.detail


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kwargs", "native"),
    [
        ("Widths", {"din": 4, "hidden": [8, 16], "dout": 2}, lambda r: layers.Widths(4, [8, 16], 2, rngs=r)),
        ("Dicts", {"config": CONFIG}, lambda r: layers.Dicts(CONFIG, rngs=r)),
        ("Pair", {"dout": 2, "shape": [4, 1]}, lambda r: layers.Pair(2, (4, 1), rngs=r)),
    ],
)
def test_layers_get_plain_yaml_types(name, kwargs, native):
    model = wrapped(name, **kwargs)
    wanted = [leaf.shape for leaf in jax.tree.leaves(nnx.state(native(nnx.Rngs(0)), nnx.Param))]
    assert shapes(model) == wanted
    assert shapes(model) == wanted  # a second construction gets its own list
    assert parity(model)[0] is Verdict.passed


@pytest.mark.slow
def test_lists_stay_lists_inside_hosts():
    model = wrapped("Widths", din=4, hidden=[8, 16], dout=4)
    hosted = hosts.put_around(model, HostSettings(target="runner.bridge.hosts.ScannedHost"))
    assert (2, 8, 16) in shapes(hosted)
    assert jax.jit(lambda m, x: m.init(root_key(0), x), static_argnums=0)(hosted.model, X)


def test_equal_arguments_of_other_types_differ():
    one, two = wrapped("Acts", value=[1]), wrapped("Acts", value=[True])
    assert one.model != two.model
    assert one.model == wrapped("Acts", value=[1]).model


@pytest.mark.parametrize(
    ("name", "kwargs", "got"),
    [
        ("Plain", {"activation": "tanh"}, "tanh"),
        ("Maybe", {"activation": "my.own"}, "my.own"),
        ("OneOf", {"kernel_init": "unit"}, "unit"),
        ("Bare", {"pool_fn": "max"}, "max"),
        ("DtypeText", {"dtype": "bfloat16"}, "bfloat16"),
        ("Names", {"activations": ["tanh", "mish2"]}, ["tanh", "mish2"]),
        ("Both", {"activation": "mish2"}, "mish2"),
        ("Open", {"activation": {"_text_": "mish2"}}, "mish2"),
        ("Acts", {"value": {"activation": ["relu"]}}, {"activation": ["relu"]}),
    ],
)
def test_text_arguments_stay_text(name, kwargs, got):
    assert kept(name, **kwargs) == got


@pytest.mark.parametrize(
    ("name", "kwargs", "got"),
    [
        ("Func", {"activation_function": "tanh"}, jnp.tanh),
        ("Called", {"squash": "jax.numpy.sin"}, jnp.sin),
        ("Called", {"squash": "sin"}, jnp.sin),
        ("Funcs", {"squashes": ["relu", "tanh"]}, [jax.nn.relu, jnp.tanh]),
        ("Norm", {"norm_cls": "RMSNorm"}, nnx.RMSNorm),
        ("Open", {"activation": "gelu"}, jax.nn.gelu),
        ("Acts", {"value": {"_function_": "tanh"}}, jnp.tanh),
        ("Acts", {"value": {"deep": [{"_function_": "relu"}]}}, {"deep": [jax.nn.relu]}),
        ("Bare", {"pool_fn": {"_function_": "jax.numpy.max"}}, jnp.max),
    ],
)
def test_function_arguments_become_functions(name, kwargs, got):
    assert kept(name, **kwargs) == got


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        (
            "Open",
            {"activation": "mish2"},
            "layer.kwargs.activation=mish2: no such activation in jax.nn.\n  Try: layer.kwargs.activation=mish, or "
            "'layer.kwargs.activation={_text_:mish2}' for the text itself",
        ),
        (
            "Norm",
            {"norm_cls": "nnx.RMSNorm"},
            "layer.kwargs.norm_cls=nnx.RMSNorm: there is no module nnx.\n  Try: layer.kwargs.norm_cls=RMSNorm",
        ),
        (
            "Norm",
            {"norm_cls": "my_norms.Scaled"},
            "layer.kwargs.norm_cls=my_norms.Scaled: there is no module my_norms.\n  Try: run from the folder that "
            "holds the module, or install its package",
        ),
        (
            "Norm",
            {"norm_cls": "zzzz"},
            "layer.kwargs.norm_cls=zzzz: no such activation in jax.nn.",
        ),
        (
            "Open",
            {"activation": "nn.gelu"},
            "layer.kwargs.activation=nn.gelu: there is no module nn.\n  Try: layer.kwargs.activation=gelu, or "
            "'layer.kwargs.activation={_text_:nn.gelu}' for the text itself",
        ),
        (
            "Funcs",
            {"squashes": ["relu", "tnh"]},
            "layer.kwargs.squashes[1]=tnh: no such activation in jax.nn.\n  Try: 'layer.kwargs.squashes=[relu,tanh]'",
        ),
        (
            "Acts",
            {"value": {"_text_": "a", "b": 1}},
            "layer.kwargs.value={_text_:a,b:1}: _text_ stands alone, with text.\n  Try: "
            "'layer.kwargs.value={_text_:fan}'",
        ),
        (
            "FromConfig",
            {"din": 4, "config": {"_target_": f"{HERE}.Config", "widht": 3}},
            "layer.kwargs.config.widht=3: argument_layers.Config takes width, activation, gate.\n  Try: "
            "layer.kwargs.config.width=3",
        ),
        (
            "Acts",
            {"value": {"_target_": f"{HERE}.Config", "_recursive_": False}},
            "layer.kwargs.value._recursive_=false: besides _target_ there are _args_, _partial_ and the arguments by "
            "name.\n  Try: the same without _recursive_",
        ),
        (
            "Acts",
            {"value": {"_target_": f"{HERE}.X"}},
            "layer.kwargs.value._target_=argument_layers.X: argument_layers has no X",
        ),
    ],
)
def test_what_names_nothing_is_refused(name, kwargs, message):
    with pytest.raises(UserError) as caught:
        wrapped(name, **kwargs)
    assert str(caught.value).startswith(message)


@pytest.mark.slow
def test_a_config_object_is_made():
    config = {"_target_": f"{HERE}.Config", "width": 3, "activation": "mish2", "gate": "tanh"}
    model = wrapped("FromConfig", din=4, config=config)
    assert shapes(model) == [(3,), (4, 3)]
    assert model.model == wrapped("FromConfig", din=4, config=config).model
    assert parity(model)[0] is Verdict.passed
    native = layers.FromConfig(4, layers.Config(3, "mish2", jnp.tanh), rngs=nnx.Rngs(0))
    assert (model.construct(nnx.Rngs(0))(X) == native(X)).all()


@pytest.mark.slow
def test_nested_modules_are_made_with_rngs():
    inner = {"_target_": "flax.nnx.Linear", "in_features": 4, "out_features": 6, "kernel_init": "ones"}
    block = {"_target_": "flax.nnx.Linear", "_partial_": True, "_args_": [6], "out_features": 3}
    model = wrapped("Outer", inner=inner, block=block)
    assert shapes(model) == [(3,), (6, 3), (6,), (4, 6)]
    rngs = nnx.Rngs(0)
    native = layers.Outer(
        nnx.Linear(4, 6, kernel_init=nnx.initializers.ones, rngs=rngs),
        functools.partial(nnx.Linear, 6, out_features=3),
        rngs=rngs,
    )
    assert (model.construct(nnx.Rngs(0))(X) == native(X)).all()
    assert parity(model)[0] is Verdict.passed
    hosted = hosts.put_around(model, HostSettings(target="runner.bridge.hosts.MLPHost"))
    assert (4, 6) in shapes(hosted)
    assert isinstance(hash(hosted.model), int)


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("Widths", {"hidden": [8], "din": 4, "dout": 2}, {"hidden": [9], "din": 4, "dout": 2}),
        ("Dicts", {"config": CONFIG}, {"config": CONFIG | {"more": {"dout": 6}}}),
    ],
)
def test_nn_jit_tells_arguments_apart(name, one, two):
    made = [shapes(lifts.jitted(wrapped(name, **kwargs))) for kwargs in (one, two, one)]
    assert made[0] == made[2] != made[1]
