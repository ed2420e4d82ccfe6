"""Classes made by `to_linen_class`, flax's or a pipeline's, taken apart: they already are Linen, and hold a layer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flax import linen as nn
from flax import nnx

# The fields of a wrapper that are set here, and those of every Linen module.
OWN = ("nnx_class", "args", "kwargs", "skip_rng", "metadata_fn", "parent", "name")


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a class made by `to_linen_class` wraps, and how.

    Attributes:
      wrapper: The class that wraps it: the product's own base, under the product's name, by which Linen numbers it.
      nnx_class: The class or factory that it wraps.
      kwargs: Arguments that it gives its constructor.
      skip_rng: Whether it gives it no rngs.
      metadata_fn: What it boxes the variables with; None leaves bare arrays.
      more: Further fields of the wrapper.
    """

    wrapper: type[nn.Module]
    nnx_class: Callable[..., nnx.Module]
    kwargs: Mapping[str, Any]
    skip_rng: bool
    metadata_fn: Callable[[nnx.Variable[Any]], Any] | None
    more: Mapping[str, Any]

    @functools.cached_property
    def target(self) -> Callable[..., nnx.Module]:
        """What makes the layer from the arguments that are left."""
        return functools.partial(self.nnx_class, **self.kwargs) if self.kwargs else self.nnx_class


@functools.cache
def taken_apart(found: Any) -> Product | None:
    """The class `found` taken apart; None where it is not made by `to_linen_class`."""
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        return None
    made: Any = _made_of_nothing(found) or _made_of_nothing(_subclass(found))
    nnx_class = getattr(made, "nnx_class", None)
    base = next((kind for kind in found.__mro__[1:] if "nnx_class" in _fields(kind) and not taken_apart(kind)), None)
    if not callable(nnx_class) or base is None:
        return None
    more = {name: getattr(made, name) for name in _fields(base) if name not in OWN}
    return Product(
        wrapper=type(found.__name__, (base,), {"__module__": base.__module__}),
        more=more,
        nnx_class=nnx_class,
        kwargs=dict(getattr(made, "kwargs", {})),
        skip_rng=bool(getattr(made, "skip_rng", False)),
        metadata_fn=getattr(made, "metadata_fn", None),
    )


def _fields(kind: type) -> list[str]:
    return [item.name for item in dataclasses.fields(kind) if item.init] if dataclasses.is_dataclass(kind) else []


def _made_of_nothing(kind: type[nn.Module] | None) -> nn.Module | None:
    try:
        return None if kind is None else kind()
    except Exception:  # noqa: BLE001 - a module with arguments of its own: whatever its constructor raises
        return None


def _subclass(kind: type[nn.Module]) -> type[nn.Module] | None:
    # flax gives its own product the constructor that knows the layer only where that is subclassed.
    try:
        return type(kind.__name__, (kind,), {"__module__": kind.__module__})
    except Exception:  # noqa: BLE001 - a class that allows no subclass
        return None
