"""What a pipeline's own wrapper does to its layer before the call: a mode that it sets, as Kauldron's does.

The bridge's own `ToLinen` sets none. Another wrapper may call `train()` or `eval()` by a switch that its pipeline has;
so the layer is looked at where the wrapper calls it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import jax
from flax import nnx
from flax.nnx import bridge

# What `nnx.Module.train` and `eval` set.
SWITCHES = ("deterministic", "use_running_average")

Path = tuple[Any, ...]


@dataclass(kw_only=True)
class Seen:
    """What was seen of a layer in one call of its wrapper.

    Attributes:
      modes: The attributes of the mode, by path, as the layer was called; None where that was not seen.
      set_by_wrapper: The names of those that the wrapper set.
    """

    modes: dict[Path, Any] | None = None
    set_by_wrapper: set[str] = field(default_factory=set)


def is_own(wrapper: Any) -> bool:
    """Whether a wrapped layer's wrapper is a pipeline's own, and not made of the bridge's."""
    return hasattr(wrapper, "nnx_class") and not isinstance(wrapper, bridge.ToLinen)


def modes_of(module: nnx.Module) -> dict[Path, Any]:
    """The attributes of the mode by path."""
    return {
        (*path, name): getattr(inner, name)
        for path, inner in nnx.iter_modules(module)
        for name in SWITCHES
        if hasattr(inner, name)
    }


@contextlib.contextmanager
def watching(wrapper: Any, method: Any) -> Iterator[Seen]:
    """Watches a call of `wrapper`, a bound module with an own wrapper; nothing is seen of another."""
    seen = Seen()
    kind = _class_of(wrapper) if is_own(wrapper) else None
    name = method if isinstance(method, str) else "__call__"
    if kind is None or not callable(getattr(kind, name, None)):
        yield seen
        return
    with mock.patch.object(kind, name, _noting_call(kind, name, seen)), _noting_switches(seen):
        yield seen


def _noting_call(kind: type, name: str, seen: Seen) -> Any:
    call = getattr(kind, name)

    @functools.wraps(call)
    def noting(module: Any, *args: Any, **kwargs: Any) -> Any:
        if seen.modes is None:
            seen.modes = modes_of(module)
        return call(module, *args, **kwargs)

    return noting


def _noting_switches(seen: Seen) -> Any:
    set_attributes = nnx.Module.set_attributes

    @functools.wraps(set_attributes)
    def noting(module: Any, *filters: Any, **attributes: Any) -> None:
        if seen.modes is None:  # later ones are the layer's own
            seen.set_by_wrapper |= attributes.keys() & set(SWITCHES)
        set_attributes(module, *filters, **attributes)

    return mock.patch.object(nnx.Module, "set_attributes", noting)


def _class_of(wrapper: Any) -> type | None:
    """The class of the layer; None where that can't be told."""
    if isinstance(wrapper.nnx_class, type):
        return wrapper.nnx_class
    made: list[type] = []
    try:
        jax.eval_shape(lambda: made.append(type(wrapper.nnx_class(*wrapper.args, **wrapper.kwargs, rngs=nnx.Rngs(0)))))
    except Exception:  # noqa: BLE001 - whatever the layer's own code raises
        return None
    return made[0]
