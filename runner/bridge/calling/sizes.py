"""Constructor arguments that follow from the shape of x and from `features`, filled in by their names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from runner.bridge.calling import wanted
from runner.config.settings.layer import LayerSettings

# The width of what goes in, of what comes out, and of both.
INPUTS = re.compile(
    r"(d|n|dim|dims|num)_?in|in_?(put|puts)?_?(features|dim|dims|size|channels|width)|num_inputs|num_features"
)
OUTPUTS = re.compile(
    r"(d|n|dim|dims|num)_?out|out_?(put|puts)?_?(features|dim|dims|size|channels|width)|num_outputs|features"
)
WIDTHS = re.compile(r"dim|d_model|hidden_size|(embed|emb|embedding|model)_(dim|size)|width|channels|num_channels")

# Arguments that take randomness under another name than `rngs`.
RNGS = re.compile(r"(prng|rng|random)(_?(keys?|stream|streams|s))?|key|init_(key|rng)")
KEYS = re.compile(r"PRNGKey|KeyArray|jax\.Array|^Array$")


def filled(
    layer: LayerSettings, target: Callable[..., Any], shape: Sequence[int], features: int | None
) -> LayerSettings:
    """`layer` with the sizes that its constructor needs and that were not given.

    Args:
      layer: The layer's settings.
      target: Its class or factory.
      shape: Shape of x; its last axis is the width that goes in.
      features: The width that comes out; None if there is none.
    """
    named = [key for key, item in wanted.parameters(target).items() if item.kind in wanted.BY_NAME]
    added: dict[str, Any] = {}
    for key in missing(layer, target):
        size = _size(key, named, shape[-1], features)
        if size is not None:
            added[key] = size
    return dataclasses.replace(layer, kwargs={**layer.kwargs, **added}) if added else layer


def missing(layer: LayerSettings, target: Callable[..., Any]) -> list[str]:
    """Arguments that the constructor needs and the settings have not, rngs left out."""
    found = wanted.parameters(target)
    rngs = rngs_argument(target)
    return [
        key
        for key, item in found.items()
        if item.kind in (*wanted.BY_NAME, item.POSITIONAL_ONLY)
        and item.default is item.empty
        and key not in layer.kwargs
        and key not in ("rngs", rngs)
    ]


def rngs_argument(target: Callable[..., Any]) -> str | None:
    """The argument that takes rngs or a key; None if there is none."""
    found = wanted.parameters(target)
    if "rngs" in found:
        return "rngs"
    for key, item in found.items():
        if item.kind in wanted.BY_NAME and takes_key(target, key) is not False:
            return key
    return "rngs" if wanted.takes(found, "rngs") else None


def takes_key(target: Callable[..., Any], name: str) -> str | bool:
    """Whether argument `name` takes rngs ("rngs"), a key ("key"), either, which only a trial tells (True), or none."""
    parameter = wanted.parameters(target)[name]
    said = wanted.annotation(target, parameter)
    members = wanted.members(said)
    if any(member is nnx.Rngs or str(member) in ("nnx.Rngs", "Rngs") for member in members):
        return "rngs"
    if RNGS.fullmatch(name) is None or parameter.default not in (None, parameter.empty):
        return False
    if said is parameter.empty or said is Any:
        return True
    is_key = any(member is jax.Array or KEYS.search(str(getattr(member, "__name__", member))) for member in members)
    return "key" if is_key else False


def _size(key: str, named: Sequence[str], width: int, features: int | None) -> int | None:
    if INPUTS.fullmatch(key):
        return width
    if OUTPUTS.fullmatch(key):
        return features
    if WIDTHS.fullmatch(key) is None:
        return None
    has_input, has_output = (any(map(pattern.fullmatch, named)) for pattern in (INPUTS, OUTPUTS))
    others = [name for name in named if WIDTHS.fullmatch(name) and name != key]
    if (has_input and has_output) or (others and key.startswith("hidden")):
        return None  # somewhere between the two: that is the user's choice
    return features if has_input else width
