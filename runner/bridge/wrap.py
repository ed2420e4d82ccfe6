"""Wraps an NNX layer as a Linen module, through `flax.nnx.bridge`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict
from flax.nnx import bridge

from runner.bridge import targets
from runner.bridge.rngs import init_keys
from runner.config.layer_settings import LayerSettings
from runner.errors import ConfigError, LayerError, literal, nearest, no_exit


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
        """Returns the Linen variables; see `init_keys` for the streams' keys."""
        with no_exit():
            return self.model.init(init_keys(key, streams), x, **self.call)

    def apply(self, variables: Any, keys: Mapping[str, jax.Array], mutable: Sequence[str], x: jax.Array) -> Any:
        """Returns the output and the updated collections (empty if `mutable` is)."""
        with no_exit():
            if not mutable:
                return self.model.apply(variables, x, rngs=dict(keys), **self.call), {}
            return self.model.apply(variables, x, rngs=dict(keys), mutable=list(mutable), **self.call)


def wrap(layer: LayerSettings) -> Bridged:
    """Wraps `layer` as a Linen module.

    Raises:
      LayerError: The target can't be imported, is not an NNX module or factory, or rejects its arguments.
      ConfigError: A keyword argument can't be resolved to what it names.
    """
    target = resolve_target(str(layer.target))
    parameters = _parameters(target)
    _require_arguments(layer, parameters)
    kwargs = {key: targets.resolve_value(key, value, parameters.get(key)) for key, value in layer.kwargs.items()}
    skip_rng = not _takes(parameters, "rngs")
    # `ToLinen` itself, not `to_linen`, which consumes `name` and three more of the layer's keywords.
    model = bridge.ToLinen(target, kwargs=FrozenDict(kwargs), skip_rng=skip_rng)
    return called(model, {key: targets.hashable(value) for key, value in layer.call.items()})


def called(model: nn.Module, call: Mapping[str, Any]) -> Bridged:
    """`model` with its call keyword arguments and, for a wrapped layer, the constructor of its native module."""
    wrapped: Any = model

    def construct(rngs: nnx.Rngs) -> nnx.Module:
        streams = {} if wrapped.skip_rng else {"rngs": rngs}
        with no_exit():
            return wrapped.nnx_class(*wrapped.args, **wrapped.kwargs, **streams)

    return Bridged(model=model, call=call, construct=construct if hasattr(model, "nnx_class") else None)


def arguments_of(model: Any) -> dict[str, Any]:
    """The constructor arguments of a wrapped layer by name, positional ones included; empty for a host."""
    if not hasattr(model, "nnx_class"):
        return {}
    return {**dict(zip(_parameters(model.nnx_class), model.args, strict=False)), **model.kwargs}


def is_linen(found: Any) -> bool:
    """Whether `found` is a `flax.linen` module class."""
    return isinstance(found, type) and issubclass(found, nn.Module)


def resolve_target(path: str) -> Callable[..., nnx.Module]:
    """The class or factory at a dotted path (`pkg.mod.Class` or `pkg.mod:Class`), validated before it is called.

    Raises:
      LayerError: The path can't be imported, or is neither an `nnx.Module` subclass nor a function taking `rngs`.
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
    # By name: accepting any keyword (as `json.dumps` does) does not make a function a factory.
    if not callable(found) or "rngs" not in _parameters(found):
        raise LayerError(
            f"layer.target={path}: a {type(found).__name__} is neither an nnx.Module nor a factory that takes rngs",
            "def make_layer(*, rngs): return MyLayer(…, rngs=rngs)",
        )
    return found


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    # The signature of a module class is its metaclass's, which accepts anything: its constructor is what counts.
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
