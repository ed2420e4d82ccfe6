"""Values and calls as the Python code that makes them, for the lines that fix a fail."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from runner.bridge.wrap import skips_rng

LAZY_INIT = """\
# at the end of the constructor, for every bridge.ToNNX in it; x: an array of the shape that they take
bridge.lazy_init(self.inner, x)"""

SIMPLE = (bool, int, float, str, tuple, type(None))


def value(found: Any) -> str:
    """`found` as an expression; a module is rebuilt from its attributes, so it takes `rngs` from its surroundings."""
    if isinstance(found, nnx.Module):
        return _module(found)
    if isinstance(found, (list, tuple)):
        inner = ", ".join(value(item) for item in found)
        return f"[{inner}]" if isinstance(found, list) else f"({inner}{',' if len(found) == 1 else ''})"
    if isinstance(found, Mapping):
        inner = ", ".join(f"{key!r}: {value(item)}" for key, item in found.items())
        return "{" + inner + "}" if isinstance(found, dict) else "FrozenDict({" + inner + "})"
    name = getattr(found, "__name__", None)
    if name is None or isinstance(found, np.dtype):
        return repr(found)
    return f"nnx.{name}" if getattr(nnx, name, None) is found else name


def hashable(found: Any) -> str:
    """`found` as an expression that can be hashed: lists and arrays as tuples, dicts frozen."""
    if hasattr(found, "tolist"):
        return hashable(found.tolist())
    if isinstance(found, (list, tuple)):
        return f"({', '.join(hashable(item) for item in found)}{',' if len(found) == 1 else ''})"
    if isinstance(found, Mapping):
        return "FrozenDict({" + ", ".join(f"{key!r}: {hashable(item)}" for key, item in found.items()) + "})"
    return value(found)


def as_param(path: Sequence[Any]) -> str:
    """The line that makes a Param of a raw array, for the end of the constructor of the layer that holds it."""
    where = "self" + "".join(f".{part}" if isinstance(part, str) else f"[{part!r}]" for part in path)
    # An attribute that once held a tracer counts as static: `nnx.data` says that it is not.
    return f"{where} = nnx.data(nnx.Param({where}))" if len(path) == 1 else f"{where} = nnx.Param({where})"


def call_of(model: Any, *, rngs: bool | None = None) -> str:
    """The constructor's call of a wrapped layer, with `rngs=rngs` unless the wrapper skips it."""
    parts = [value(item) for item in model.args]
    parts += [f"{key}={value(item)}" for key, item in model.kwargs.items()]
    parts += ["rngs=rngs"] if (not skips_rng(model) if rngs is None else rngs) else []
    return f"{value(model.nnx_class)}({', '.join(parts)})"


def constructor(target: Any) -> Any:
    """What takes the arguments: a class's `__init__` (its metaclass takes anything), or the factory itself."""
    return target.__init__ if isinstance(target, type) else target  # type: ignore[misc]


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    """Parameters by name, `self` among them; none where they can't be read."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def _module(module: nnx.Module) -> str:
    """The call that makes a module like this one, as far as its attributes are named after its arguments."""
    kind = type(module)
    parts = []
    for name, parameter in list(parameters(kind.__init__).items())[1:]:
        found = getattr(module, name, parameter.default)
        if name == "rngs":
            parts.append("rngs=rngs")
        elif parameter.kind is parameter.VAR_POSITIONAL:
            parts += [value(item) for item in (found if found is not parameter.empty else ())]
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            parts.append(f"{name}={'...' if found is parameter.empty else value(found)}")
        elif isinstance(found, SIMPLE) and found != parameter.default:
            parts.append(f"{name}={value(found)}")
    return f"{value(kind)}({', '.join(parts)})"
