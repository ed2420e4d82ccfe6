"""Builds and calls the native NNX module of a wrapped layer without Linen; its state as Linen variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from runner.arrays import trees
from runner.bridge import rngs
from runner.bridge.calling import calls
from runner.bridge.wrap import Bridged
from runner.errors import LayerError


@dataclass(frozen=True, kw_only=True)
class Native:
    """A split native module.

    Attributes:
      apply: `(variables, rng_state, x) -> (output, updated collections)`, as in `Bridged.apply`.
      rng_state: Leaves of the module's own streams, from the keys it was built with.
    """

    apply: Callable[[Any, Any, jax.Array], Any]
    rng_state: Any


def variables(layer: Bridged, keys: Mapping[str, jax.Array]) -> dict[str, Any]:
    """The native module's variables by collection and path, named as in Linen's init, unboxed.

    Args:
      layer: A wrapped layer.
      keys: Keys passed to init.
    """
    return _collections(_build(layer, rngs.native_streams(keys)))


def with_variables(
    layer: Bridged, variables: Mapping[str, Any], keys: Mapping[str, jax.Array], *, cast: bool = False
) -> nnx.Module:
    """The native module of a wrapped layer, loaded with `variables`.

    Args:
      layer: The wrapped layer.
      variables: A full or partial Linen variable dict; missing leaves keep the constructor's values.
      keys: Keys passed to apply: the module's first call then draws what apply drew.
      cast: Whether the variables' dtypes may differ from the module's.

    Raises:
      LayerError: The module has no such leaf, or one of another shape or dtype; or the layer is a host.
    """
    if layer.construct is None:
        raise LayerError("a host has no native module", 'reload(run, as_="linen")')
    module = _build(layer, {"params": jax.random.key(0), **rngs.native_streams(keys)})
    own: Any = list(nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngState))))
    given = {path[1:]: leaf for path, leaf in trees.flatten(trees.unbox(variables))}
    loaded = []
    for path, leaf in own:
        value = _value(leaf)
        inner = [(*path, *rest) for rest, _ in trees.flatten(value)]
        if not any(part in given for part in inner):
            continue
        arrays = [given.pop(part, None) for part in inner]
        for part, one, two in zip(inner, jax.tree.leaves(value), arrays, strict=True):
            _require_same(part, _kind(one), "nothing" if two is None else _kind(two), cast=cast)
        held = jax.tree.unflatten(jax.tree.structure(value), arrays)
        loaded.append((path, leaf.replace(held) if isinstance(leaf, nnx.Variable) else held))
    for part, leaf in given.items():
        _require_same(part, "nowhere", _kind(leaf), cast=False)
    nnx.update(module, nnx.from_flat_state(loaded))
    return module


def _require_same(path: trees.Path, own: str, given: str, *, cast: bool) -> None:
    """Validates that a leaf of the module is of the dtype and shape that is given, or with `cast` of its shape."""
    if (own.partition("[")[1:] if cast else own) != (given.partition("[")[1:] if cast else given):
        raise LayerError(f"the native module has {trees.spell(path)} {own}, the variables {given}")


def state(module: nnx.Module) -> nnx.State[Any, Any]:
    """The state of `module` from `nnx.split`, rng state included, on the CPU: what flax's guide saves.

    The arrays stay jax arrays, since rng keys can't be NumPy arrays; every machine has a CPU device.
    """
    return jax.device_put(nnx.split(module)[1], jax.local_devices(backend="cpu")[0])


def rng_names(module: nnx.Module) -> list[str]:
    """Paths of the keys and counts in `module` that Linen does not store: its streams, and keys that are attributes."""
    leaves = nnx.to_flat_state(nnx.state(module))
    return [trees.spell(path) for path, leaf in leaves if isinstance(leaf, nnx.RngState) or _is_bare_key(leaf)]


def _is_bare_key(leaf: Any) -> bool:
    return not isinstance(leaf, nnx.Variable) and trees.is_key(leaf)


def _value(leaf: Any) -> Any:
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf


def _kind(leaf: Any) -> str:
    array = jax.eval_shape(lambda: leaf)  # of a Python number, too
    return f"{array.dtype}{list(array.shape)}"


def split(
    layer: Bridged,
    keys: Mapping[str, jax.Array],
    mutable: Sequence[str],
    *,
    made_with: Mapping[str, jax.Array] | None = None,
) -> Native:
    """The native module with the same streams that a wrapped one gets from `keys`, ready for variables.

    Args:
      layer: A wrapped layer.
      keys: Keys passed to apply.
      mutable: Collections whose updates are returned.
      made_with: Keys of init, for a constructor whose arrays are out of reach, in a tuple or a function: it then runs
        without jit, and keeps what it makes of these keys. None builds with `keys`, compiled.
    """
    graph: dict[str, Any] = {}
    traced: list[Any] = []

    # Leaves, not Variables: a Variable may only change at the trace level that created it, and grad adds one.
    def build(keys: Mapping[str, jax.Array]) -> Any:
        # In apply, the bridge adds the stream `default` if it was not passed.
        module = _build(layer, {"default": jax.random.key(0), **rngs.native_streams(keys)})
        for _, inner in nnx.iter_modules(module):
            traced.extend(value for value in vars(inner).values() if isinstance(value, jax.core.Tracer))
        graph["def"], rng_state, state = nnx.split(module, nnx.RngState, ...)  # type: ignore[misc]
        graph["state"] = list(nnx.to_flat_state(state))
        graph["leaves"] = [(path, _collection(leaf), jax.tree.structure(leaf)) for path, leaf in graph["state"]]
        leaves, graph["rng"] = jax.tree.flatten(rng_state)
        return leaves

    rng_state = (build if made_with else jax.jit(build))(dict(keys))
    constants: dict[Any, Any] = {}
    if made_with:
        build(dict(made_with))
        constants = {path: leaf for path, leaf in graph["state"] if not isinstance(leaf, nnx.Variable)}
    elif traced:
        # A plain array attribute, not a Variable, is static under jit: the graph would hold its tracer.
        # Built without jit it is a leaf, which the variables of a jitted init lack.
        rng_state = build(dict(keys))
        constants = {path: leaf for path, leaf in graph["state"] if not isinstance(leaf, nnx.Variable)}

    def apply(variables: Any, rng_state: Any, x: jax.Array) -> Any:
        given = trees.unbox(variables)
        leaves = [
            (path, structure.unflatten(jax.tree.leaves(_at(given[collection], path))))
            for path, collection, structure in graph["leaves"]
            if path not in constants
        ]
        state = nnx.from_flat_state([*leaves, *constants.items()])
        module = nnx.merge(graph["def"], graph["rng"].unflatten(rng_state), state)
        output = calls.call(module, x, layer.call)
        updated = _collections(module) if mutable else {}
        return output, {name: updated[name] for name in updated if name in mutable}

    return Native(apply=apply, rng_state=rng_state)


def in_place(layer: Bridged, keys: Mapping[str, jax.Array], mutable: Sequence[str]) -> Native:
    """As `split`, but built in every call and given the variables in place, as the bridge does, and never split.

    A function that a module keeps, and that reads the module's own Variables, has the old ones after a merge.
    """

    def apply(variables: Any, rng_state: Any, x: jax.Array) -> Any:
        module = _build(layer, {"default": jax.random.key(0), **rngs.native_streams(rng_state)})
        nnx.update(module, nnx.merge_state(*trees.unbox(variables).values()))
        output = calls.call(module, x, layer.call)
        updated = _collections(module) if mutable else {}
        return output, {name: updated[name] for name in updated if name in mutable}

    return Native(apply=apply, rng_state=dict(keys))


def _build(layer: Bridged, streams: Mapping[str, jax.Array]) -> Any:
    assert layer.construct is not None
    return layer.construct(nnx.Rngs(**streams))


def _collections(module: Any) -> dict[str, Any]:
    found: dict[Any, Any] = {}
    for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngState))):
        node = found
        *parents, last = (_collection(leaf), *path)
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
    return found


def _collection(leaf: Any) -> str:
    return nnx.variable_name_from_type(type(leaf), allow_register=True)


def _at(tree: Any, path: Sequence[Any]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
