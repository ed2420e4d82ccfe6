"""The modes in which a model can be called: train and eval, where an argument of its call chooses between them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.bridge.wrap import Bridged

# Call arguments that choose the mode, and their values in train mode.
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


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A mode of two models.

    Attributes:
      name: train, eval, or '' if neither model has a call argument that chooses.
      calls: The call arguments that choose it, of the first and the second model.
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
        one, two = ({key: TRAIN_ARGUMENTS[key] is is_train for key in keys} for keys in arguments)
        found.append(Mode(name=name, calls=(one, two)))
    return found


def in_mode(layer: Bridged, call: Mapping[str, Any]) -> Bridged:
    """`layer`, always called with `call` besides its own arguments."""
    return Bridged(model=layer.model, call={**layer.call, **call}, construct=layer.construct)


def _arguments(layer: Bridged) -> list[str]:
    # The call of a wrapped layer takes anything: that of the NNX class counts.
    target = vars(layer.model).get("nnx_class", type(layer.model))
    if not isinstance(target, type):
        return []
    try:
        method = getattr(target, "__call__")  # noqa: B004, B009
        return [name for name in inspect.signature(method).parameters if name in TRAIN_ARGUMENTS]
    except (TypeError, ValueError, AttributeError):
        return []
