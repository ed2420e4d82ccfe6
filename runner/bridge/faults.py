"""Layers and hosts that can't work in Linen, whatever the input: why, told from an error or from a trace."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from runner.bridge import lifts, outside
from runner.bridge.layers import axes
from runner.bridge.wrap import Bridged
from runner.errors import LayerFaultError, listed

# What Python says where a path with a number in it is joined, matched, sorted or added to.
NEEDS_TEXT = re.compile(
    r"expected str instance, int found|operand type\(s\) for \+: 'int' and 'str'"
    r"|can only concatenate str \(not \"int\"\)"
    r"|expected string or bytes-like object, got 'int'|not supported between instances of '(int|str)' and '(int|str)'"
    r"|'int' object has no attribute '(split|startswith|endswith|replace|lower|join)'"
)

# Number of times that the constructor is called to see whether it makes the same again.
NUM_BUILT = 3


def of_error(layer: Bridged, x: Any, label: str, error: Exception) -> LayerFaultError | None:
    """The fault that made init or apply raise `error`; None if it is another reason."""
    changed = _changed(layer)
    if changed:
        what = (
            f"layer {label}: its constructor makes another module at each call, and Linen calls it again in every init "
            f"and apply: {listed(changed)} differ; so apply fails with {_message(error)}"
        )
        return LayerFaultError(
            what, "sizes = list(sizes)  # a copy, where it changes an argument, a default or a global"
        )
    if layer.construct is None and isinstance(error, (TypeError, AttributeError)) and NEEDS_TEXT.search(str(error)):
        numbered = _numbered(layer, x)
        if numbered:
            what = (
                f"{label}: {listed(numbered)} has integer keys in its path (nnx.List, nnx.Sequential), and the host "
                f"needs paths of strings: it raises {_message(error)}"
            )
            return LayerFaultError(what, "nnx.Dict({f'layer_{num}': layer for num, layer in enumerate(layers)})")
    return None


def of_trace(layer: Bridged, label: str, closed: Any) -> LayerFaultError | None:
    """The fault of a layer whose traced call uses an array of an earlier trace; None if it doesn't."""
    leaked = [const for const in closed.consts if isinstance(const, jax.core.Tracer)]
    if not leaked:
        return None
    names = sorted({name for name, value in _held(layer) if any(value is one for one in leaked)})
    where = listed(names) if names else "a global, a class or a cache"
    what = (
        f"layer {label}: {where} keeps an array of one trace for the next, so a tracer leaks: apply fails once it is "
        "compiled, or uses what is gone"
    )
    return LayerFaultError(
        what, "numpy for what is kept (np.sin, not jnp.sin), or an nnx.Variable made in the constructor"
    )


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _changed(layer: Bridged) -> list[str]:
    """Paths of leaves that are not the same each time that the constructor is called; it may raise after a while."""
    found: list[Mapping[str, Any]] = []
    for _ in range(NUM_BUILT):
        try:
            found.append(_leaves(layer))
        except Exception:  # noqa: BLE001 - whatever the layer's own code raises
            break
    if len(found) < 2:
        return []
    paths = {path: None for leaves in found for path in leaves}
    return [path for path in paths if len({str(leaves.get(path)) for leaves in found}) > 1]


def _leaves(layer: Bridged) -> dict[str, Any]:
    construct = layer.construct
    if construct is None:
        return {}
    module = nnx.eval_shape(lambda: construct(nnx.Rngs(0)))
    state = nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngState)))
    return {"/".join(map(str, path)): jax.tree.map(lambda one: (one.shape, one.dtype), leaf) for path, leaf in state}


def _numbered(host: Bridged, x: Any) -> list[str]:
    """Leaves with a number in their path, of wrapped layers that the host calls before it fails."""
    return [
        "/".join(map(str, (*([name] if name else []), *path)))
        for name, layer in lifts.calls_until_error(host, x)
        for path, _ in _state(layer)
        if any(isinstance(part, int) for part in path)
    ]


def _state(model: Any) -> list[tuple[Any, Any]]:
    module = nnx.eval_shape(lambda: axes.construct(model, nnx.Rngs(0)))
    return list(nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngState))))


def _held(layer: Bridged) -> Iterator[tuple[str, Any]]:
    target = getattr(layer.model, "nnx_class", None)
    return outside.values(target) if target is not None else iter(())
