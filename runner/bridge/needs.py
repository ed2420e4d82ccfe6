"""Finds by tracing what a wrapped layer needs besides its input: rng streams and mutable collections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from runner.bridge.rngs import PARAMS, apply_keys
from runner.bridge.wrap import Bridged, arguments_of
from runner.errors import LayerError, UserError, literal, no_exit

# A layer that needs more streams than this requests a new one on every trace.
MAX_STREAMS = 16


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a layer needs besides its input, found by tracing.

    Attributes:
      streams: rng streams, `params` first.
      mutable: Collections that apply changes or creates.
      variables: Shapes and dtypes of the variables, as from `jax.eval_shape`.
      output: Shapes and dtypes of the output.
    """

    streams: tuple[str, ...]
    mutable: tuple[str, ...]
    variables: Any
    output: Any


def find_needs(layer: Bridged, x: Any, label: str) -> Needs:
    """Finds the streams and mutable collections of `layer` by tracing; nothing is computed.

    Args:
      layer: The wrapped layer.
      x: Input, or its shape and dtype.
      label: The layer's name in error messages.

    Raises:
      LayerError: The layer rejects its arguments or the input.
    """
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    streams: tuple[str, ...] = (PARAMS,)
    while True:
        try:
            with no_exit():
                variables = jax.eval_shape(lambda k, v, s=streams: layer.init(k, s, v), key, x)
                # Linen's own dropout draws from `params` during init, and needs its stream only now.
                output, mutable = _trace_apply(layer, variables, streams, x)
        except UserError:
            raise
        except Exception as error:  # whatever the layer's own code raises
            missing = _missing_stream(error)
            if missing is None or missing in streams or len(streams) >= MAX_STREAMS:
                raise _refusal(layer, x, label, error) from error
            streams = (*streams, missing)
        else:
            return Needs(streams=streams, mutable=mutable, variables=variables, output=output)


def names_in_order(layer: Bridged, streams: Sequence[str], x: Any) -> dict[tuple[str, ...], list[str]]:
    """Names in every Linen module by its path, in the order of creation; Linen numbers classes in that order."""
    found: dict[tuple[str, ...], list[str]] = {}

    def watch(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = method(*args, **kwargs)
        scope = context.module.scope
        if scope is not None:
            found[tuple(map(str, scope.path))] = list(scope.reservations)
        return result

    def init(key: jax.Array, x: jax.Array) -> Any:
        with nn.intercept_methods(watch):
            return layer.init(key, streams, x)

    jax.eval_shape(init, jax.ShapeDtypeStruct((2,), jnp.uint32), x)
    return found


def _missing_stream(error: Exception) -> str | None:
    # NNX's error message, and Linen's for a Linen module inside the layer.
    match = re.search(r"No RngStream named '(\w+)'|needs PRNG for \"(\w+)\"", str(error))
    return (match[1] or match[2]) if match else None


def _trace_apply(layer: Bridged, variables: Any, streams: Sequence[str], x: Any) -> tuple[Any, tuple[str, ...]]:
    """Shapes of the output, and the collections whose values apply changes."""
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)

    def run(variables: Any, k: jax.Array, v: jax.Array) -> Any:
        return layer.model.apply(variables, v, rngs=apply_keys(k, streams), mutable=True, **layer.call)

    closed, (output, updates) = jax.make_jaxpr(run, return_shape=True)(variables, key, x)
    given = {id(var) for var in closed.jaxpr.invars}
    for equation in closed.jaxpr.eqns:  # on a mesh, unboxing a variable with axis names repeats its sharding
        if equation.primitive.name == "sharding_constraint" and id(equation.invars[0]) in given:
            given.add(id(equation.outvars[0]))
    num_output = len(jax.tree.leaves(output))
    update_vars = closed.jaxpr.outvars[num_output:]
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(updates)[0]]
    changed = {str(path[0].key) for path, var in zip(paths, update_vars, strict=True) if id(var) not in given}
    return output, tuple(sorted(changed))


def _refusal(layer: Bridged, x: Any, label: str, error: Exception) -> LayerError:
    """The layer's own error as a sentence with the shapes and a fix."""
    reason = " ".join(str(error).split()) or "no reason given"
    reason = reason if len(reason) <= 300 else f"{reason[:297]}…"
    what = f"layer {label} can't take x of shape {list(x.shape)} {x.dtype}: {type(error).__name__}: {reason}"
    return LayerError(what.rstrip("."), _fix(layer, list(x.shape), reason))


def _fix(layer: Bridged, shape: list[int], reason: str) -> str:
    """What to type when a layer rejects x: a change of the constructor, dtype or shape, whichever is likeliest."""
    if "auto mesh context" in reason:  # flax's message for a variable with axis names and no mesh
        axes = dict.fromkeys(re.findall(r"'(\w+)'", reason.partition("out_sharding=")[2]), 1)
        return f"'mesh.axes={literal(axes)}'"
    if _fails_to_construct(layer):
        return "other values for layer.kwargs"
    if "integer" in reason.lower():
        return "input=tokens input.high=32"
    if "argument was provided" in reason or "missing" in reason:
        return "+layer.call.NAME=VALUE for a call argument, +layer.kwargs.NAME=VALUE for a constructor's"
    if match := re.search(r"__call__\(\) got an unexpected keyword argument '(\w+)'", reason):
        return f"the same without layer.call.{match[1]}"
    if "Name in use" in reason:
        return "names for the other layers of the host too, as they were counted before, or another host.layer_name"
    widths = re.search(r"contracting dimensions to have the same shape, got \((\d+),\) and \(\d+,\)", reason)
    if layer.construct is None and widths:
        return f"layer.kwargs.in_features={widths[1]}, if that is the width that the host gives the layer"
    for key in ("in_features", "num_features"):
        wanted = arguments_of(layer.model).get(key)
        if isinstance(wanted, int) and wanted != shape[-1]:
            return f"'input_shape={literal([*shape[:-1], wanted])}'"
    return f"'input_shape={literal([2, *shape])}' or another shape or input"


def _fails_to_construct(layer: Bridged) -> bool:
    construct = layer.construct
    if construct is None:
        return False
    try:
        nnx.eval_shape(lambda: construct(nnx.Rngs(0)))
    except Exception:  # noqa: BLE001 - whatever the layer's own code raises
        return True
    return False
