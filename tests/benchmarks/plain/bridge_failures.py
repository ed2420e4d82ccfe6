"""What bare Flax does with wrong inputs of a layer: run in one environment, prints JSON. Imports nothing of ours.

Each probe gives `silent` (accepted, and the numbers are wrong), `raises` and the error's class, or `right`; once for
the wrapped NNX layer, once for Linen's own, by which one sees that a probe can end otherwise.
"""

import json
import sys
import warnings

warnings.simplefilter("ignore")

import flax  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import linen as nn  # noqa: E402
from flax import nnx  # noqa: E402

K, X = jax.random.key(0), jnp.ones((2, 8))


class Wrapped:
    """The layers through the bridge."""

    def linear(self):
        return nnx.bridge.to_linen(nnx.Linear, 8, 8)

    def dropout(self):
        return nnx.bridge.to_linen(nnx.Dropout, 0.5)

    def batch_norm(self):
        return nnx.bridge.to_linen(nnx.BatchNorm, 8)


class Native:
    """Linen's own."""

    def linear(self):
        return nn.Dense(8)

    def dropout(self):
        return nn.Dropout(0.5, deterministic=False)

    def batch_norm(self):
        return nn.BatchNorm(use_running_average=False)


def silent_if(wrong):
    return "silent" if bool(wrong) else "right"


def missing_weights(layers):
    return silent_if(layers.linear().apply({}, X).shape == (2, 8))


def variables_with(layers, change):
    """Init's variables with other params; other collections stay as they are: early releases keep a graph there."""
    variables = dict(layers.linear().init(K, X))
    return variables | {"params": change(dict(variables["params"]))}


def missing_leaf(layers):
    variables = variables_with(layers, lambda params: {"bias": params["bias"]})
    return silent_if(layers.linear().apply(variables, X).shape == (2, 8))


def wrong_shape(layers):
    variables = variables_with(layers, lambda params: {"kernel": jnp.ones((8, 5)), "bias": jnp.ones((5,))})
    return silent_if(layers.linear().apply(variables, X).shape == (2, 5))


def wrong_collection(layers):
    variables = dict(layers.linear().init(K, X))
    variables["weights"] = variables.pop("params")
    return silent_if(layers.linear().apply(variables, X).shape == (2, 8))


class Old(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(nn.Dense(8)(nn.Dense(8)(x)))


class New(nn.Module):
    layers: object

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(self.layers.linear()(nn.Dense(8)(x)))


def renamed_siblings(layers):
    variables = Old().init(K, X)
    return silent_if(not jnp.allclose(New(layers).apply(variables, X), Old().apply(variables, X)))


def missing_dropout_key(layers):
    model = layers.dropout()
    variables = model.init({"params": K, "dropout": K}, X)
    return silent_if(jnp.array_equal(model.apply(variables, X), model.apply(variables, X)))


def misnamed_dropout_key(layers):
    model = layers.dropout()
    variables = model.init({"params": K, "dropout": K}, X)
    first, second = (model.apply(variables, X, rngs={"drop": jax.random.key(seed)}) for seed in (1, 2))
    return silent_if(jnp.array_equal(first, second))


def dropped_update(layers):
    model = layers.batch_norm()
    variables = model.init(K, X)
    return silent_if(model.apply(variables, X).shape == (2, 8))


class Twice(nn.Module):
    layers: object

    @nn.compact
    def __call__(self, x):
        layer = self.layers.linear()
        return layer(layer(x))


def called_twice(layers):
    output, variables = Twice(layers).init_with_output(K, X)
    return silent_if(not jnp.allclose(output, Twice(layers).apply(variables, X)))


class Inner(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.bridge.ToNNX(nn.Dense(8), rngs=rngs)

    def __call__(self, x):
        return self.dense(x)


def linen_inside(layers):
    if isinstance(layers, Native):
        return None
    return silent_if(not jax.tree.leaves(nnx.bridge.to_linen(Inner).init(K, X)))


def untrained_lora(layers):
    if isinstance(layers, Native):
        return None
    variables = nnx.bridge.to_linen(nnx.LoRALinear, 8, 8, lora_rank=2).init(K, X)
    return silent_if(
        not any("lora" in str(path) for path, _ in jax.tree_util.tree_flatten_with_path(variables["params"])[0])
    )


PROBES = (
    missing_weights,
    missing_leaf,
    wrong_shape,
    wrong_collection,
    renamed_siblings,
    missing_dropout_key,
    misnamed_dropout_key,
    dropped_update,
    called_twice,
    linen_inside,
    untrained_lora,
)


KINDS = {"wrapped": Wrapped(), "native": Native()}


def outcome(probe, layers):
    try:
        return probe(layers)
    except Exception as error:  # noqa: BLE001 - whatever this release raises
        return f"raises {type(error).__name__}"


if __name__ == "__main__":
    versions = {"flax": flax.__version__, "jax": jax.__version__, "python": "{}.{}".format(*sys.version_info)}
    found = {name: {probe.__name__: outcome(probe, layers) for probe in PROBES} for name, layers in KINDS.items()}
    print(json.dumps({"versions": versions, **found}))
