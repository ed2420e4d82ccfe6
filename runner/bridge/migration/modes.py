"""The modes in which a model can be called: train and eval, where an argument of its call or constructor chooses."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.bridge.calling.wanted import parameters
from runner.bridge.wrap import Bridged, called

# Arguments of a call or a constructor that choose the mode, and their values in train mode.
TRAIN_ARGUMENTS = {
    "train": True,
    "training": True,
    "is_training": True,
    "is_train": True,
    "enable_dropout": True,
    "update_stats": True,
    "deterministic": False,
    "use_running_average": False,
    "eval": False,
    "is_eval": False,
    "eval_mode": False,
    "evaluate": False,
    "evaluation": False,
    "inference": False,
    "is_inference": False,
    "test": False,
    "testing": False,
    "is_test": False,
}

# Before the name of an argument of the constructor.
OWN = "self."


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A mode of two models.

    Attributes:
      name: train, eval, or '' if neither model has an argument that chooses.
      calls: The arguments that choose it, of the first and the second model; those of a constructor as `self.train`.
    """

    name: str
    calls: tuple[Mapping[str, Any], Mapping[str, Any]]


def modes_of(first: Bridged, second: Bridged) -> Sequence[Mode]:
    """The modes in which either model can be called."""
    arguments = (_arguments(first), _arguments(second))
    if not any(arguments):
        return [Mode(name="", calls=({}, {}))]
    found = []
    for name, is_train in (("train", True), ("eval", False)):
        one, two = ({key: TRAIN_ARGUMENTS[key.removeprefix(OWN)] is is_train for key in keys} for keys in arguments)
        found.append(Mode(name=name, calls=(one, two)))
    return found


def in_mode(layer: Bridged, call: Mapping[str, Any]) -> Bridged:
    """`layer`, always called with `call` besides its own arguments, and made with those of its constructor in it."""
    made = {key.removeprefix(OWN): value for key, value in call.items() if key.startswith(OWN)}
    given = {**layer.call, **{key: value for key, value in call.items() if not key.startswith(OWN)}}
    if not made:
        return Bridged(model=layer.model, call=given, construct=layer.construct)
    model: Any = layer.model
    if not hasattr(model, "nnx_class"):
        return Bridged(model=model.clone(**made), call=given)
    return called(model.clone(kwargs=type(model.kwargs)({**model.kwargs, **made})), given)


def _arguments(layer: Bridged) -> list[str]:
    in_call = _of_call(layer)
    # Linen wants a mode from one of the two alone.
    return [*in_call, *(key for key in _of_constructor(layer) if key.removeprefix(OWN) not in in_call)]


def _of_constructor(layer: Bridged) -> list[str]:
    """Arguments of the constructor that are True, False or left open."""
    model: Any = layer.model
    if hasattr(model, "nnx_class"):
        found = {key: item.default for key, item in parameters(model.nnx_class).items()} | dict(model.kwargs)
        found = {key: value for key, value in found.items() if key in parameters(model.nnx_class)}
    else:
        found = {item.name: getattr(model, item.name, None) for item in dataclasses.fields(model)}
    return [f"{OWN}{key}" for key in TRAIN_ARGUMENTS if key in found and _is_open(found[key])]


def _is_open(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _of_call(layer: Bridged) -> list[str]:
    # The call of a wrapped layer takes anything: that of the NNX class counts.
    target = vars(layer.model).get("nnx_class", type(layer.model))
    if not isinstance(target, type):
        return []
    try:
        method = getattr(target, "__call__")  # noqa: B004, B009
        return [name for name in inspect.signature(method).parameters if name in TRAIN_ARGUMENTS]
    except (TypeError, ValueError, AttributeError):
        return []
