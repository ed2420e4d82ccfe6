"""Tries in a host what may be around the leaves of its wrapped layers: no box, the bridge's own, or Linen's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.linen import partitioning
from flax.nnx import bridge

from runner.arrays import trees
from runner.bridge import boxes, rngs
from runner.bridge.layers import axes
from runner.bridge.wrap import Bridged

if TYPE_CHECKING:
    from runner.bridge.needs import Needs

LOGICAL, NNX, BARE, AXES = "LogicallyPartitioned", "NNXMeta", "no box", "params_axes"


# `bridge.to_linen` without metadata_fn.
DEFAULT = bridge.ToLinen.__dataclass_fields__["metadata_fn"].default

FUNCTIONS: Mapping[str, Any] = {LOGICAL: boxes.logical, NNX: DEFAULT, BARE: None, AXES: None}

# How flax says that a lift around a box of Linen's names no axis.
UNNAMED = "not specified in metadata_params"

KEEP_AXES = f"""\
from {boxes.__name__} import {boxes.logical.__name__}  # a box that nn.scan and nn.vmap tell of their axis
layer = layer.clone(metadata_fn=logical)  # or bridge.with_partitioning(init, names) where the layer is written
# in a config: layer.metadata_fn=logical"""

WRITER = f"""\
from {axes.__name__} import {axes.AxesToLinen.__name__}
layer = AxesToLinen(Layer, args=…, kwargs=FrozenDict(…))  # in place of bridge.to_linen(Layer, …)
# in a config: layer.wrapper={axes.__name__}.{axes.AxesToLinen.__name__}"""

# What to write for each.
FIXES: Mapping[str, str] = {
    LOGICAL: KEEP_AXES,
    NNX: "layer = bridge.to_linen(Layer, …)  # without metadata_fn: names and axes fit in this host",
    BARE: "layer = layer.clone(metadata_fn=None)  # in a config: layer.metadata_fn=none; no box takes this lift's axis",
    AXES: WRITER,
}


def tried(model: Bridged, needs: Needs | Callable[[], Needs], x: Any) -> dict[str, str]:
    """What is wrong with each box in this host, empty if nothing: init, apply and gradient trace, names fit arrays.

    Args:
      model: The host.
      needs: What it needs, or what finds that out, for a host that can't be traced as it is.
      x: Its input, or shape and dtype.
    """
    return {name: problem(model, needs, x, name) for name in FUNCTIONS}


def first_fix(found: Mapping[str, str]) -> str | None:
    """What to write for the first of the boxes that were tried with nothing wrong; None if there is none."""
    return next((FIXES[name] for name, wrong in found.items() if not wrong), None)


def problem(model: Bridged, needs: Needs | Callable[[], Needs], x: Any, name: str) -> str:
    """What is wrong with the box `name` around the leaves of all wrapped layers in the host; empty if nothing."""
    try:
        with nn.intercept_methods(_boxing(FUNCTIONS[name], writes=name == AXES)):
            variables = _trace(model, needs() if callable(needs) else needs, x)
    except Exception as error:  # noqa: BLE001 - whatever the host, its lifts or the box raise
        return f"{type(error).__name__}: {error}"
    wrong = [path for path, names, rank in named_axes(variables) if len(names) != rank]
    return f"{wrong[0]} has other names than axes" if wrong else "; ".join(missing_axes(variables)[:1])


def named_axes(variables: Any) -> Iterator[tuple[str, tuple[Any, ...], int]]:
    """Path, axis names and rank of every leaf in a box with names."""
    for path, leaf in trees.flatten(variables):
        names = trees.axis_names(leaf)
        if names:
            yield trees.spell(path), names, len(jax.tree.leaves(leaf)[0].shape)


def missing_axes(variables: Any) -> list[str]:
    """Params without an entry in `params_axes`, where the host makes that collection."""
    entries = axes_entries(variables)
    if entries is None:
        return []
    paths = [path[1:] for path, _ in trees.flatten(variables) if path[0] == rngs.PARAMS]
    return [trees.spell(path) for path in paths if (*path[:-1], f"{path[-1]}{axes.SUFFIX}") not in entries]


def axes_entries(variables: Any) -> dict[tuple[Any, ...], tuple[Any, ...]] | None:
    """The names in `params_axes` by path; None if the host makes no such collection."""
    if axes.COLLECTION not in variables:
        return None
    flat = traverse_util.flatten_dict(_plain(variables[axes.COLLECTION]))
    return {path: tuple(entry.names) for path, entry in flat.items() if isinstance(entry, partitioning.AxisMetadata)}


def _plain(tree: Any) -> Any:
    return {key: _plain(value) for key, value in tree.items()} if isinstance(tree, Mapping) else tree


def _boxing(function: Callable[[Any], Any] | None, *, writes: bool) -> Callable[..., Any]:
    """An interceptor of Linen calls that replaces `metadata_fn` of every wrapped layer, and may write its axes."""

    def box(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not hasattr(module, "nnx_class"):
            return run(*args, **kwargs)
        before = module.metadata_fn
        # A Linen module is frozen, and a copy of it would be another one in the host.
        object.__setattr__(module, "metadata_fn", function)
        try:
            output = run(*args, **kwargs)
        finally:
            object.__setattr__(module, "metadata_fn", before)
        if writes:
            axes.write_axes(module)
        return output

    return box


def _trace(model: Bridged, needs: Needs, x: Any) -> Any:
    """Shapes of the variables, once init, apply and the gradient by params were traced."""
    key = rngs.key_shape()
    x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    # Functions of their own: JAX remembers what it traced.
    variables = jax.eval_shape(lambda key, x: model.init(key, needs.streams, x), key, x)

    def apply(variables: Any, key: Any, x: Any) -> Any:
        return model.apply(variables, rngs.apply_keys(key, needs.streams), needs.mutable, x)

    def loss(params: Any, rest: Any, key: Any, x: Any) -> jax.Array:
        output, _ = apply({**rest, rngs.PARAMS: params}, key, x)
        return sum((jnp.sum(jnp.real(leaf)).astype(jnp.float32) for leaf in jax.tree.leaves(output)), jnp.zeros(()))

    # As T5X does: the axes are no variables of apply.
    given = {name: tree for name, tree in variables.items() if name != axes.COLLECTION}
    jax.eval_shape(apply, given, key, x)
    rest = {name: tree for name, tree in given.items() if name != rngs.PARAMS}
    if jax.tree.leaves(variables.get(rngs.PARAMS, {})):
        jax.eval_shape(jax.grad(loss, allow_int=True), variables[rngs.PARAMS], rest, key, x)
    return variables
