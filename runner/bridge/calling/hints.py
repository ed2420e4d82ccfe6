"""What to type when a layer refuses x: only what was traced and worked."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from runner.bridge.calling import calls, sizes
from runner.bridge.calling.arguments import Arguments
from runner.bridge.tracing import tried_boxes
from runner.bridge.wrap import Bridged, arguments_of
from runner.errors import literal, nearest

# A call argument of these names is a switch.
SWITCHES = re.compile(
    r"(is_)?train(ing)?(_property)?|deterministic|decode|use_running_average|inference|eval(uate)?|update_stats|"
    r"(enable|use)_dropout"
)

# Larger numbers in an error are no widths to try.
MAX_WIDTH = 2**16

Trace = Callable[[Bridged, Any], Any]


def hint(layer: Bridged, x: Any, error: BaseException, trace: Trace) -> str | None:
    """The override with which a layer that raised `error` takes x, or takes another; None if none that is tried works.

    Args:
      layer: The wrapped layer, or a host.
      x: Shape and dtype of the input that it refused.
      error: What it raised.
      trace: Traces a layer on an input; raises if it is refused.
    """
    words = str(error)
    if named := _mesh(layer, words):
        return named
    if tried_boxes.UNNAMED in words:
        return tried_boxes.first_fix(tried_boxes.tried(layer, lambda: trace(layer, x), x))
    return _first(_candidates(layer, x, words), trace)


def constructor_hint(layer: Bridged, x: Any, error: BaseException, trace: Trace) -> str | None:
    """As `hint`, for a layer whose constructor raised `error`."""
    words = str(error)
    return _mesh(layer, words) or _first(_counts(layer, x, words), trace)


def _first(candidates: Iterable[tuple[str, Bridged, Any]], trace: Trace) -> str | None:
    """What to type for the first of the candidates that can be traced."""
    for text, other, taken in candidates:
        try:
            trace(other, taken)
        except Exception:  # noqa: BLE001 - whatever the layer's own code raises
            continue
        return text
    return None


def _counts(layer: Bridged, x: Any, words: str) -> Iterator[tuple[str, Bridged, Any]]:
    """One in place of a count that the error names, such as a number of heads, by itself and with another axis of x."""
    for key, value in _arguments(layer).items():
        if type(value) is int and value != 1 and re.search(rf"\b{re.escape(key)}\b", words):
            text, other = f"layer.kwargs.{key}=1", _with_arguments(layer, {key: 1})
            yield text, other, x
            shape, _, longer = _shaped([2, *x.shape], layer, x)
            yield f"{text} {shape}", other, longer


def _mesh(layer: Bridged, words: str) -> str | None:
    """The mesh that an error of flax asks for where a variable has axis names and there is no mesh; else None."""
    if "auto mesh context" not in words:
        return None
    said = re.findall(r"'(\w+)'", words.partition("out_sharding=")[2])
    axes = dict.fromkeys(said or _axis_names(_arguments(layer)), 1)
    return f"'mesh.axes={literal(axes)}'" if axes else None


def _axis_names(arguments: Any) -> Iterator[str]:
    """The axis names in metadata among the arguments; flax names none where they are a list."""
    for key, value in arguments.items() if isinstance(arguments, Mapping) else ():
        if key == "out_sharding":
            yield from (name for name in jax.tree.leaves(value) if isinstance(name, str))
        else:
            yield from _axis_names(value)


def constructs(layer: Bridged) -> bool:
    """Whether the native module of a wrapped layer can be built; True for a host."""
    construct = layer.construct
    if construct is None:
        return True
    try:
        nnx.eval_shape(lambda: construct(nnx.Rngs(0)))
    except Exception as error:  # noqa: BLE001 - whatever the layer's own code raises
        return "No RngStream named" in str(error)
    return True


def _candidates(layer: Bridged, x: Any, words: str) -> Iterator[tuple[str, Bridged, Any]]:
    """What to type, and the layer and input that it gives."""
    if "Name in use" in words:
        yield from _names(layer, x)
    yield from _calls(layer, x, words)
    yield from _inputs(layer, x, words)
    shape = list(x.shape)
    if not shape:
        return
    arguments = _arguments(layer)
    widths = {key: value for key, value in arguments.items() if type(value) is int and _is_width(key)}
    shaped = [_shaped([*shape[:-1], width], layer, x) for width in dict.fromkeys(widths.values()) if width != shape[-1]]
    asked = dict.fromkeys([shape[-1], *map(int, re.findall(r"\d+", words))])
    built = [
        (f"layer.kwargs.{key}={width}", _with_arguments(layer, {key: width}), x)
        for key, value in widths.items()
        for width in asked
        if width != value and 0 < width < MAX_WIDTH
    ]
    # A host gives the layer a width of its own, and x is what the pipeline has.
    yield from [*built, *shaped] if layer.construct is None else [*shaped, *built]
    # A width that the constructor has by default is in the error alone.
    yield from (_shaped([*shape[:-1], width], layer, x) for width in asked if 0 < width < MAX_WIDTH)
    yield _shaped([2, *shape], layer, x)
    yield _shaped([2, 2, *shape], layer, x)
    if len(shape) > 1:
        yield _shaped(shape[1:], layer, x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        yield "input=tokens input.high=32", layer, jax.ShapeDtypeStruct(x.shape, jnp.int32)
    elif not jnp.issubdtype(x.dtype, jnp.floating):
        yield "input=normal input.dtype=float32", layer, jax.ShapeDtypeStruct(x.shape, jnp.float32)


def _inputs(layer: Bridged, x: Any, words: str) -> Iterator[tuple[str, Bridged, Any]]:
    """More arrays, or x by name or in a dict."""
    missing = re.findall(r"'(\w+)'", words.partition("required positional argument")[2])
    arrays = {name: np.ones(x.shape, x.dtype) for name in missing if not SWITCHES.fullmatch(name)}
    if arrays and layer.construct is not None:  # a host does not get them
        shapes = {name: list(x.shape) for name in arrays}
        yield f"'input.shapes={literal(shapes)}'", _with_call(layer, arrays), x
    takes = _call_parameters(layer)
    for name, kind in takes.items():
        if kind is inspect.Parameter.KEYWORD_ONLY and "positional argument" in words:
            yield f"input.name={name}", _with_call(layer, {calls.METHOD: calls.Placed(name)}), x
    if key := re.search(r"string indexing; got idx='(\w+)'", words):
        for name in takes:
            place = f"{name}.{key[1]}"
            yield f"input.name={place}", _with_call(layer, {calls.METHOD: calls.Placed(place)}), x


def _with_call(layer: Bridged, more: dict[str, Any]) -> Bridged:
    return dataclasses.replace(layer, call=Arguments({**layer.call, **more}))


def _call_parameters(layer: Bridged) -> dict[str, Any]:
    """The parameters of the native module's call, with their kinds; none for a host."""
    construct = layer.construct
    if construct is None:
        return {}
    try:
        module: Any = nnx.eval_shape(lambda: construct(nnx.Rngs(0)))
        return {key: item.kind for key, item in inspect.signature(module.__call__).parameters.items()}
    except Exception:  # noqa: BLE001 - whatever the layer's own code raises
        return {}


def _names(layer: Bridged, x: Any) -> Iterator[tuple[str, Bridged, Any]]:
    """Other names of the layer in its host."""
    maker: Any = getattr(layer.model, "layer", None)
    host: Any = layer.model
    for name in ("layer", None):
        if maker is not None and maker.name != name:
            other = host.clone(layer=dataclasses.replace(maker, name=name))
            yield f"host.layer_name={literal(name)}", dataclasses.replace(layer, model=other), x


def _calls(layer: Bridged, x: Any, words: str) -> Iterator[tuple[str, Bridged, Any]]:
    """Other arguments of the call, of the layer's and of its host's."""
    for key, call, called_with in _called(layer):
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", words)
        if unexpected and unexpected[1] in call:
            value, rest = call[unexpected[1]], _without(call, unexpected[1])
            close = nearest(unexpected[1], _parameters_of(layer))
            if close is not None and close not in call:
                yield f"{key}.{close}={literal(value)}", called_with({**rest, close: value}), x
            yield f"the same without {key}.{unexpected[1]}", called_with(rest), x
        missing = re.findall(r"'(\w+)'", words.partition("missing")[2]) + re.findall(r"No `(\w+)` argument", words)
        values = {name: False for name in missing if SWITCHES.fullmatch(name)}
        values |= dict.fromkeys(re.findall(r"(\w+)=`? (?:kwargs )?was not set", words), True)
        if values:
            text = " ".join(f"{key}.{name}={literal(value)}" for name, value in values.items())
            yield text, called_with({**call, **values}), x
    if twice := re.search(r"multiple values for (?:keyword )?argument '(\w+)'", words):
        yield from _given_twice(layer, x, twice[1])


def _given_twice(layer: Bridged, x: Any, name: str) -> Iterator[tuple[str, Bridged, Any]]:
    """Without an argument of the layer's call that its host gives it too: the host may have one for it."""
    maker: Any = getattr(layer.model, "layer", None)
    if layer.construct is not None or name not in getattr(maker, "call", ()):
        return
    value, host = maker.call[name], layer.model
    inner: Any = dataclasses.replace(maker, call=Arguments(_without(maker.call, name)))
    without = dataclasses.replace(layer, model=host.clone(layer=inner))
    if name in _parameters_of(layer) and name not in layer.call:
        text = f"host.call.{name}={literal(value)} in place of layer.call.{name}"
        yield text, _with_call(without, {name: value}), x
    yield f"the same without layer.call.{name}", without, x


def _called(layer: Bridged) -> Iterator[tuple[str, Mapping[str, Any], Callable[[Mapping[str, Any]], Bridged]]]:
    """The calls that a config has arguments of: the key, the arguments, and the same with others."""

    def outer(call: Mapping[str, Any]) -> Bridged:
        return dataclasses.replace(layer, call=Arguments(call))

    maker: Any = getattr(layer.model, "layer", None)
    host: Any = layer.model
    if layer.construct is not None or not hasattr(maker, "call"):
        yield "layer.call", layer.call, outer
        return

    def inner(call: Mapping[str, Any]) -> Bridged:
        return dataclasses.replace(layer, model=host.clone(layer=dataclasses.replace(maker, call=Arguments(call))))

    yield "host.call", layer.call, outer
    yield "layer.call", maker.call, inner


def _parameters_of(layer: Bridged) -> list[str]:
    """Names of the call arguments of the layer, or of its host; none where they can't be read."""
    if layer.construct is not None:
        return list(_call_parameters(layer))
    try:
        return list(inspect.signature(type(layer.model).__call__).parameters)[1:]
    except (TypeError, ValueError):
        return []


def _without(call: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in call.items() if key != name}


def _shaped(shape: list[int], layer: Bridged, x: Any) -> tuple[str, Bridged, Any]:
    return f"'input_shape={literal(shape)}'", layer, jax.ShapeDtypeStruct(tuple(shape), x.dtype)


def _is_width(key: str) -> bool:
    return any(pattern.fullmatch(key) for pattern in (sizes.INPUTS, sizes.WIDTHS))


def _arguments(layer: Bridged) -> dict[str, Any]:
    """The constructor arguments of the wrapped layer, also of one in a host."""
    maker = getattr(layer.model, "layer", None)
    return arguments_of(getattr(maker, "model", layer.model))


def _with_arguments(layer: Bridged, changed: dict[str, Any]) -> Bridged:
    maker = getattr(layer.model, "layer", None)
    inner: Any = getattr(maker, "model", layer.model)
    other = inner.clone(kwargs=Arguments({**inner.kwargs, **changed}))
    if inner is layer.model:
        return dataclasses.replace(layer, model=other)
    host: Any = layer.model
    made: Any = maker
    return dataclasses.replace(layer, model=host.clone(layer=dataclasses.replace(made, model=other)))
