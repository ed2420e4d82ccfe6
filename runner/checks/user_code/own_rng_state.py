"""Keys and counts of a generator that a layer holds itself, outside a stream of `nnx.Rngs`.

The bridge stores no `nnx.RngState`: apply builds the module again, from the streams that it is given at that call. A
stream is meant so. A key that the layer drew for itself is another one at every call, and a count starts again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from flax import nnx

from runner.checks.programs import flow

Path = tuple[Any, ...]


class Call(Protocol):
    """A call of a module on arrays, which are given apart."""

    @property
    def arrays(self) -> Sequence[Any]:
        """Their shapes and dtypes."""

    def __call__(self, module: Any, arrays: Sequence[Any]) -> Any:
        """The output."""


def lost(
    construct: Callable[[nnx.Rngs], nnx.Module], module: Any, nodes: Sequence[tuple[Path, Any]], call: Call
) -> dict[str, bool]:
    """Those that the call reads and the next apply has other values of, by name in the module; whether each is a key.

    Args:
      construct: Builds the native module from a generator.
      module: The module that it built, before a call.
      nodes: What `nnx.iter_graph` gives of it.
      call: Calls such a module on arrays of its shapes and dtypes.
    """
    held = _held(nodes)
    if not held:
        return {}
    graph, state = nnx.split(module)

    def run(state: Any, arrays: Sequence[Any]) -> Any:
        merged: Any = nnx.merge(graph, state)
        output = call(merged, arrays)
        after = dict(nnx.to_flat_state(nnx.state(merged)))
        return [after.pop(path) for path in held], output, list(after.values())

    closed = jax.make_jaxpr(run)(state, call.arrays)
    before = dict(nnx.to_flat_state(state))
    leaves = [id(leaf) for leaf in jax.tree.leaves(state)]
    places = [leaves.index(id(jax.tree.leaves(before[path])[0])) for path in held]
    read = flow.read(closed, [number >= len(held) for number in range(len(closed.jaxpr.outvars))])
    is_read = [read[place] for place in places]
    is_changed = [
        closed.jaxpr.invars[place] is not new for place, new in zip(places, closed.jaxpr.outvars, strict=False)
    ]
    drawn = _drawn(construct, held)
    return {
        ".".join(map(str, path)): isinstance(before[path], nnx.RngKey)
        for number, path in enumerate(held)
        if is_read[number] and (drawn[number] or is_changed[number])
    }


def _held(nodes: Sequence[tuple[Path, Any]]) -> list[Path]:
    streams = {path for path, node in nodes if isinstance(node, nnx.RngStream)}
    found = [path for path, node in nodes if isinstance(node, nnx.RngState)]
    return sorted((path for path in found if path[:-1] not in streams), key=str)


def _drawn(construct: Callable[[nnx.Rngs], nnx.Module], held: Sequence[Path]) -> list[bool]:
    """Which of them come from the generator that the module is built from."""

    def build(key: jax.Array) -> Any:
        made = dict(nnx.to_flat_state(nnx.state(construct(nnx.Rngs(key)))))
        return [made[path][...] for path in held]

    closed = jax.make_jaxpr(build)(jax.random.key(0))
    return [any(flow.read(closed, [other == path for other in held])) for path in held]
