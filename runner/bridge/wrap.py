"""NNX class to Linen module: what the bridge is given, what it needs, and where its random numbers come from.

This file and `hosts` are the only ones that know `flax.nnx.bridge`; `lifts` and `twins` know `flax.linen` too.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict
from flax.nnx import bridge

from runner.bridge import targets
from runner.config.layer_settings import LayerSettings
from runner.config.train_settings import MAX_SEED
from runner.errors import ConfigError, LayerError, UserError, literal, nearest
from runner.records import seeds

PARAMS = "params"

# A layer that asks for more streams than this asks for a new one each time it is tried.
MAX_STREAMS = 16


def nnx_inside_linen(seed: float, x: jax.Array, features: float) -> jax.Array:
    """The output of an NNX layer run inside Linen: the worked example, eager, as the flax guides write it.

    Args:
      seed: Whole number from 0; the init key is `jax.random.PRNGKey(int(seed))`.
      x: Input, shape [in_features].
      features: Whole number from 1.

    Returns:
      Output, shape [features].

    Raises:
      ConfigError: A seed or features that is no whole number or too small, or an x without an axis.
    """
    num_features = _whole("features", features, least=1)
    root = _whole("seed", seed, least=0, most=MAX_SEED)
    x = jnp.asarray(x)
    if x.ndim < 1:
        raise ConfigError("input_shape", list(x.shape), "x needs at least one axis", "'input_shape=[4]'")
    if x.size == 0:
        raise ConfigError("input_shape", list(x.shape), "every axis needs at least one element", "'input_shape=[4]'")

    class Layer(nnx.Module):
        def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
            self.linear = nnx.Linear(in_features=in_features, out_features=out_features, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.linear(x)

    model = bridge.to_linen(Layer, in_features=x.shape[-1], out_features=num_features)
    variables = model.init(jax.random.PRNGKey(root), x)
    output = model.apply(variables, x)
    assert isinstance(output, jax.Array)
    return output


@dataclass(frozen=True, kw_only=True)
class Bridged:
    """A Linen module and how it is called: a wrapped NNX layer, or a host with one in it.

    Attributes:
      model: The wrapped layer, or the host.
      call: Keyword arguments of every call.
      construct: Builds the native module of a wrapped layer from `rngs`; None for a host.
    """

    model: nn.Module
    call: Mapping[str, Any] = field(default_factory=dict)
    construct: Callable[[nnx.Rngs], nnx.Module] | None = None

    def init(self, key: jax.Array, streams: Sequence[str], x: jax.Array) -> Any:
        """The Linen variables; see `init_keys` for the keys of the streams."""
        return self.model.init(init_keys(key, streams), x, **self.call)

    def apply(self, variables: Any, keys: Mapping[str, jax.Array], mutable: Sequence[str], x: jax.Array) -> Any:
        """The output and the updated collections (empty where `mutable` is)."""
        if not mutable:
            return self.model.apply(variables, x, rngs=dict(keys), **self.call), {}
        return self.model.apply(variables, x, rngs=dict(keys), mutable=list(mutable), **self.call)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a layer wants beside its input, found out by tracing it.

    Attributes:
      streams: rng streams, `params` first.
      mutable: Collections that apply changes or makes.
      variables: Shapes and dtypes of the variables, as `jax.eval_shape` gives them.
      output: Shapes and dtypes of the output.
    """

    streams: tuple[str, ...]
    mutable: tuple[str, ...]
    variables: Any
    output: Any


def wrap(layer: LayerSettings) -> Bridged:
    """`layer` as a Linen module.

    Raises:
      LayerError: The target can't be imported, is no NNX module or factory, or refuses its arguments.
      ConfigError: A keyword argument that can't be turned into what it names.
    """
    target = resolve_target(str(layer.target))
    parameters = _parameters(target)
    _require_arguments(layer, parameters)
    kwargs = {key: targets.resolve_value(key, value, parameters.get(key)) for key, value in layer.kwargs.items()}
    skip_rng = not _takes(parameters, "rngs")
    # `ToLinen` itself, not `to_linen`: that keeps `name` and three more keywords from the layer.
    model = bridge.ToLinen(target, kwargs=FrozenDict(kwargs), skip_rng=skip_rng)
    return called(model, {key: targets.hashable(value) for key, value in layer.call.items()})


def called(model: nn.Module, call: Mapping[str, Any]) -> Bridged:
    """`model` with the keyword arguments of its calls; a wrapped layer comes with what builds its native module."""
    wrapped: Any = model

    def construct(rngs: nnx.Rngs) -> nnx.Module:
        streams = {} if wrapped.skip_rng else {"rngs": rngs}
        return wrapped.nnx_class(*wrapped.args, **wrapped.kwargs, **streams)

    return Bridged(model=model, call=call, construct=construct if hasattr(model, "nnx_class") else None)


def arguments_of(model: Any) -> dict[str, Any]:
    """The constructor's arguments of a wrapped layer by name, those given by position too; none of a host."""
    if not hasattr(model, "nnx_class"):
        return {}
    return {**dict(zip(_parameters(model.nnx_class), model.args, strict=False)), **model.kwargs}


def find_needs(layer: Bridged, x: Any, label: str) -> Needs:
    """The streams and mutable collections of `layer`, found by tracing; nothing is computed.

    Args:
      layer: The wrapped layer.
      x: Input, or its shape and dtype.
      label: What the layer is called in an error.

    Raises:
      LayerError: The layer refuses its arguments or the input.
    """
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    streams: tuple[str, ...] = (PARAMS,)
    while True:
        try:
            variables = jax.eval_shape(lambda k, v, s=streams: layer.init(k, s, v), key, x)
            # Linen's own dropout draws from `params` while init runs, and asks for its stream only now.
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
    """Names in every Linen module by its path, in the order in which they were taken; Linen counts classes in it."""
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


def is_linen(found: Any) -> bool:
    """Whether `found` is a class of `flax.linen` modules."""
    return isinstance(found, type) and issubclass(found, nn.Module)


def root_key(seed: int) -> jax.Array:
    """The Linen init key of a run: `jax.random.PRNGKey(seed)`."""
    return jax.random.PRNGKey(seed)


def teacher_key(seed: int) -> jax.Array:
    """The root key of a teacher's weights: another one than that of any run."""
    return _named_key(root_key(seed), "train", "teacher")


def init_keys(key: jax.Array, streams: Sequence[str]) -> dict[str, jax.Array]:
    """Keys given to init: the root key for `params`, one folded from it by name for every other stream."""
    return {stream: key if stream == PARAMS else _named_key(key, "init", stream) for stream in streams}


def apply_keys(key: jax.Array, streams: Sequence[str]) -> dict[str, jax.Array]:
    """Keys given to apply: other ones than init's, and none for `params`."""
    return {stream: _named_key(key, "apply", stream) for stream in streams if stream != PARAMS}


def native_streams(keys: Mapping[str, jax.Array], path: Sequence[str] = ()) -> dict[str, jax.Array]:
    """What a wrapped layer really draws from: one stream for every key that Linen was given.

    `model.init(keys, x)` builds the layer with `nnx.Rngs(**native_streams(keys))`, so the same class built with these
    has the same variables, bit for bit. Each is the key with four bytes of a SHA-1 folded in: over the names of the
    modules on the way, and over 1, since the wrapper is the first in its scope to ask for a stream.

    Args:
      keys: Key of each stream, as given to Linen's init or apply.
      path: Names from the outermost Linen module down to the wrapped layer; empty where it is the outermost.
    """
    folded = np.uint32(seeds.stream_number(path, separated=flax.config.flax_fix_rng_separator))
    return {stream: jax.random.fold_in(key, folded) for stream, key in keys.items()}


def resolve_target(path: str) -> Callable[..., nnx.Module]:
    """The class or factory at a dotted path (`pkg.mod.Class` or `pkg.mod:Class`), checked before it is called.

    Raises:
      LayerError: Nothing importable is there, or it is neither an `nnx.Module` subclass nor a function taking `rngs`.
    """
    found = targets.import_path(path)
    if isinstance(found, type):
        if issubclass(found, nn.Module):
            raise LayerError(f"layer.target={path}: a flax.linen module already is Linen and needs no bridge")
        if not issubclass(found, nnx.Module):
            raise LayerError(
                f"layer.target={path}: the class {found.__name__} is no flax.nnx.Module", "layer.target=flax.nnx.Linear"
            )
        return found
    # By name: what takes any keyword (`json.dumps`) is not thereby a factory.
    if not callable(found) or "rngs" not in _parameters(found):
        raise LayerError(
            f"layer.target={path}: a {type(found).__name__} is neither an nnx.Module nor a factory that takes rngs",
            "def make_layer(*, rngs): return MyLayer(…, rngs=rngs)",
        )
    return found


def _named_key(key: jax.Array, when: str, stream: str) -> jax.Array:
    return jax.random.fold_in(key, seeds.key_number(when, stream))


def _whole(key: str, value: float, *, least: int, most: int = MAX_SEED) -> int:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(key, value, "a whole number is needed", f"{key}={least}") from None
    if not math.isfinite(number) or number != int(number):
        whole = round(min(abs(number), 1e9)) if number == number else least
        raise ConfigError(key, value, "a whole number is needed", f"{key}={max(whole, least)}")
    if number < least:
        raise ConfigError(key, value, f"at least {least} is needed", f"{key}={least}")
    if number > most:
        raise ConfigError(key, value, f"at most {most} is possible", f"{key}={least}")
    return int(value)


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    # A module class answers for its metaclass, which takes anything: its constructor is what counts.
    function = vars(target).get("__init__", getattr(target, "__init__")) if isinstance(target, type) else target  # noqa: B009
    try:
        parameters = list(inspect.signature(function).parameters.items())
    except (TypeError, ValueError):
        return {}
    return dict(parameters[1:] if isinstance(target, type) else parameters)


def _takes(parameters: Mapping[str, inspect.Parameter], name: str) -> bool:
    if name in parameters:
        return parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY
    return any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values())


def _require_arguments(layer: LayerSettings, parameters: Mapping[str, inspect.Parameter]) -> None:
    open_kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {key: item for key, item in parameters.items() if item.kind not in open_kinds and key != "rngs"}
    missing = [key for key, item in named.items() if item.default is item.empty and key not in layer.kwargs]
    if missing:
        suggestion = " ".join(_suggest_argument(key) for key in missing)
        raise LayerError(f"layer.target={layer.target}: its constructor also needs {', '.join(missing)}", suggestion)
    for key, value in layer.kwargs.items():
        if not _takes(parameters, key):
            close = nearest(key, named)
            raise ConfigError(
                f"layer.kwargs.{key}",
                value,
                f"the constructor of {layer.target} takes {', '.join(named) or 'no arguments'}",
                f"layer.kwargs.{close}={literal(value)}" if close else f"~layer.kwargs.{key}",
            )


def _suggest_argument(key: str) -> str:
    if key in ("in_features", "num_features", "din", "d_in", "dim_in"):
        return f"'layer.kwargs.{key}=\"${{axis:${{input_shape}},-1}}\"'"
    if key in ("out_features", "features", "dout", "d_out", "dim_out"):
        return f"'layer.kwargs.{key}=${{features}}'"
    return f"layer.kwargs.{key}=…"


def _missing_stream(error: Exception) -> str | None:
    # NNX's words, and Linen's for a Linen module inside the layer.
    match = re.search(r"No RngStream named '(\w+)'|needs PRNG for \"(\w+)\"", str(error))
    return (match[1] or match[2]) if match else None


def _trace_apply(layer: Bridged, variables: Any, streams: Sequence[str], x: Any) -> tuple[Any, tuple[str, ...]]:
    """Shapes of the output, and the collections whose values leave apply as other ones than they came in."""
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)

    def run(variables: Any, k: jax.Array, v: jax.Array) -> Any:
        return layer.model.apply(variables, v, rngs=apply_keys(k, streams), mutable=True, **layer.call)

    closed, (output, updates) = jax.make_jaxpr(run, return_shape=True)(variables, key, x)
    given = {id(var) for var in closed.jaxpr.invars}
    for equation in closed.jaxpr.eqns:  # on a mesh, unboxing a variable with axis names says again where it lies
        if equation.primitive.name == "sharding_constraint" and id(equation.invars[0]) in given:
            given.add(id(equation.outvars[0]))
    num_output = len(jax.tree.leaves(output))
    update_vars = closed.jaxpr.outvars[num_output:]
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(updates)[0]]
    changed = {str(path[0].key) for path, var in zip(paths, update_vars, strict=True) if id(var) not in given}
    return output, tuple(sorted(changed))


def _refusal(layer: Bridged, x: Any, label: str, error: Exception) -> LayerError:
    """The layer's own error as a sentence with the shapes and what to change."""
    reason = " ".join(str(error).split()) or "no reason given"
    reason = reason if len(reason) <= 300 else f"{reason[:297]}…"
    what = f"layer {label} can't take x of shape {list(x.shape)} {x.dtype}: {type(error).__name__}: {reason}"
    return LayerError(what.rstrip("."), _mend(layer, list(x.shape), reason))


def _mend(layer: Bridged, shape: list[int], reason: str) -> str:
    """What to type when a layer refuses x: the likeliest of the constructor, the element type, and the shape."""
    if "auto mesh context" in reason:  # flax's words where a variable has axis names and there is no mesh
        axes = dict.fromkeys(re.findall(r"'(\w+)'", reason.partition("out_sharding=")[2]), 1)
        return f"'mesh={literal(axes)}'"
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
