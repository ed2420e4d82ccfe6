"""The arguments and fields of a host that may choose between training and evaluation."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.bridge.migration.modes import TRAIN_ARGUMENTS
from runner.bridge.wrap import Bridged

# Values of an argument that names the mode.
EVALUATIONS = {"train": "eval", "training": "eval", "TRAIN": "EVAL"}


@dataclass(frozen=True, kw_only=True)
class Switch:
    """A value of an argument or a field of a host that may make it evaluate.

    Attributes:
      name: The argument or field.
      argument: Whether it is an argument of the call.
      value: The value.
      known: Whether the name says that this value evaluates.
      is_set: Whether the host has that value already.
    """

    name: str
    argument: bool
    value: Any
    known: bool
    is_set: bool


def others(model: Bridged) -> list[Switch]:
    """What may make the host evaluate; call arguments first."""
    host: Any = model.model
    found = [_switch(name, value, argument=True) for name, value in _arguments(model).items()]
    fields = {
        item.name: getattr(host, item.name, None)
        for item in dataclasses.fields(host)
        if item.init and item.name not in ("parent", "name")
    }
    found += [_switch(name, value, argument=False) for name, value in fields.items()]
    return [one for one in found if one is not None]


def set_in(model: Bridged, switches: Sequence[Switch]) -> Bridged:
    """`model` with the switches set."""
    arguments = {one.name: one.value for one in switches if one.argument}
    fields = {one.name: one.value for one in switches if not one.argument}
    host = model.model.clone(**fields) if fields else model.model
    return dataclasses.replace(model, model=host, call={**model.call, **arguments})


def _arguments(model: Bridged) -> dict[str, Any]:
    """The arguments of the host's call besides x, with the values that they have."""
    method = model.call.get("method", "__call__")
    target = getattr(type(model.model), method, None) if isinstance(method, str) else method
    try:
        _, _, *found = inspect.signature(target).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return {}
    named = [one for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    return {one.name: model.call.get(one.name, one.default) for one in named}


def _switch(name: str, value: Any, *, argument: bool) -> Switch | None:
    if isinstance(value, str) and value in EVALUATIONS:
        return Switch(name=name, argument=argument, value=EVALUATIONS[value], known=True, is_set=False)
    if name in TRAIN_ARGUMENTS and (isinstance(value, bool) or (argument and value is None)):
        evaluates = not TRAIN_ARGUMENTS[name]
        return Switch(name=name, argument=argument, value=evaluates, known=True, is_set=value is evaluates)
    if isinstance(value, bool):
        return Switch(name=name, argument=argument, value=not value, known=False, is_set=False)
    return None
