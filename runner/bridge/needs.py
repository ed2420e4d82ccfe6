"""Finds by tracing what a wrapped layer needs besides its input: rng streams and mutable collections."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import flax
import jax
from flax import linen as nn

from runner.bridge import faults
from runner.bridge.calling import hints
from runner.bridge.rngs import PARAMS, apply_keys, key_shape
from runner.bridge.tracing import jaxprs
from runner.bridge.wrap import Bridged
from runner.errors import LayerError, UserError, no_exit

# How flax warns that it does not load what is given, so that the layer goes on with what its constructor made.
NOT_LOADED = "Found unknown module paths in incoming state"
_NO_DICTS = "nnx.Dict of Variables in the layer, in place of a Variable that holds a dict: flax does not load that"

# A layer that needs more streams than this requests a new one on every trace.
MAX_STREAMS = 16


@dataclass(frozen=True, kw_only=True)
class Traces:
    """The traces by which needs were found.

    Attributes:
      init: The jaxpr of init, given all streams: `(key, x) -> variables`.
      apply: The jaxpr of apply, given all streams: `(variables, key, x) -> (output, every collection)`.
      returned: What apply returns, shapes and dtypes.
    """

    init: Any
    apply: Any
    returned: Any


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a layer needs besides its input, found by tracing.

    Attributes:
      streams: rng streams, `params` first.
      mutable: Collections that apply changes or creates.
      variables: Shapes and dtypes of the variables, as from `jax.eval_shape`.
      output: Shapes and dtypes of the output.
      largest_bytes: Bytes of the largest array that apply makes on its way where nothing is fused.
      settings: JAX's and Flax's settings that the layer's code changes for the whole process: `jax_enable_x64=True`.
      traces: The traces by which they were found; None once they were read, since a sweep keeps what it needs.
    """

    streams: tuple[str, ...]
    mutable: tuple[str, ...]
    variables: Any
    output: Any
    largest_bytes: int = 0
    settings: tuple[str, ...] = ()
    traces: Traces | None = field(default=None, compare=False, repr=False)

    def without_traces(self) -> Needs:
        """The same without `traces`."""
        return replace(self, traces=None)


def find_needs(layer: Bridged, x: Any, label: str) -> Needs:
    """Finds the streams and mutable collections of `layer` by tracing; nothing is computed.

    JAX's and Flax's settings that the layer changes are set back, so that the next layer is traced as if it were alone.

    Args:
      layer: The wrapped layer.
      x: Input, or its shape and dtype.
      label: The layer's name in error messages.

    Raises:
      LayerError: The layer rejects its arguments or the input.
      LayerFaultError: It can't work in Linen, whatever the input.
    """
    try:
        with settings_kept() as changed:
            found = _traced(layer, x, label)
        return replace(found, settings=tuple(f"{name}={value}" for name, value in changed.items()))
    except UserError:
        raise
    except Exception as error:  # whatever the layer's own code raises
        raise (faults.of_error(layer, x, label, error) or _refusal(layer, x, label, error)) from error


@contextlib.contextmanager
def settings_kept() -> Iterator[dict[str, Any]]:
    """Sets JAX's and Flax's settings back that are changed inside; gives these by name, once it is left."""
    before, changed = _settings(), dict[str, Any]()
    try:
        yield changed
    finally:
        changed |= {name: value for name, value in _settings().items() if value != before.get(name, value)}
        for name in changed:
            (jax.config if name in jax.config.values else flax.config).update(name, before[name])


def _settings() -> dict[str, Any]:
    """JAX's and Flax's settings, by name."""
    of_flax = [name for name, one in vars(type(flax.config)).items() if isinstance(one, property)]
    return {**jax.config.values, **{name: getattr(flax.config, name) for name in of_flax}}


def _traced(layer: Bridged, x: Any, label: str = "") -> Needs:
    key = key_shape()
    streams: tuple[str, ...] = (PARAMS,)
    while True:
        try:
            with no_exit():
                init = jax.make_jaxpr(lambda k, v, s=streams: layer.init(k, s, v), return_shape=True)
                closed, variables = init(key, x)
                # Linen's own dropout draws from `params` during init, and needs its stream only now.
                with warnings.catch_warnings():
                    warnings.filterwarnings("error", message=NOT_LOADED)
                    applied, returned = _trace_apply(layer, variables, streams, x, label)
        except UserError:
            raise
        except Exception as error:
            missing = _missing_stream(error)
            if missing is None or missing in streams or len(streams) >= MAX_STREAMS:
                raise
            streams = (*streams, missing)
        else:
            return Needs(
                streams=streams,
                mutable=_changed(applied, returned),
                variables=variables,
                output=returned[0],
                largest_bytes=jaxprs.largest_bytes(applied),
                traces=Traces(init=closed, apply=applied, returned=returned),
            )


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

    jax.eval_shape(init, key_shape(), x)
    return found


def _missing_stream(error: Exception) -> str | None:
    # NNX's error message, and Linen's for a Linen module inside the layer.
    match = re.search(r"No RngStream named '(\w+)'|needs PRNG for \"(\w+)\"", str(error))
    return (match[1] or match[2]) if match else None


def _trace_apply(layer: Bridged, variables: Any, streams: Sequence[str], x: Any, label: str) -> tuple[Any, Any]:
    """The jaxpr of apply, and shapes and dtypes of what it returns: the output and every collection."""
    key = key_shape()

    def run(variables: Any, k: jax.Array, v: jax.Array) -> Any:
        return layer.model.apply(variables, v, rngs=apply_keys(k, streams), mutable=True, **layer.call)

    closed, returned = jax.make_jaxpr(run, return_shape=True)(variables, key, x)
    if fault := faults.of_trace(layer, label, closed):
        raise fault
    return closed, returned


def _changed(closed: Any, returned: Any) -> tuple[str, ...]:
    """The collections whose values apply changes."""
    output, updates = returned
    num_output = len(jax.tree.leaves(output))
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(updates)[0]]
    changed = jaxprs.changed(closed, range(num_output, num_output + len(paths)))
    return tuple(sorted({str(path[0].key) for path, one in zip(paths, changed, strict=True) if one}))


def _refusal(layer: Bridged, x: Any, label: str, error: Exception) -> LayerError:
    """The layer's own error as a sentence with the shapes and, if one that was tried works, a fix."""
    reason = " ".join(str(error).split()) or "no reason given"
    reason = reason if len(reason) <= 300 else f"{reason[:297]}…"
    said = f"{type(error).__name__}: {reason}".rstrip(".")
    if not hints.constructs(layer):
        what = f"layer {label} can't be built from its layer.kwargs: {said}"
        return LayerError(what, hints.constructor_hint(layer, x, error, _traced))
    what = f"layer {label} can't take x of shape {list(x.shape)} {x.dtype}: {said}"
    return LayerError(what, _NO_DICTS if NOT_LOADED in reason else hints.hint(layer, x, error, _traced))
