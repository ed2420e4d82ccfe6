"""Wraps an NNX layer as a Linen module, through `flax.nnx.bridge`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax
from flax import linen as nn
from flax import nnx

from runner.bridge import products, targets, wrapper
from runner.bridge.calling import sizes, values
from runner.bridge.calling.arguments import Arguments, Assembled
from runner.bridge.calling.calls import METHOD, Drawing, Drawn, Placed
from runner.bridge.calling.wanted import BY_NAME, parameters, takes
from runner.bridge.layers import axes
from runner.bridge.rngs import init_keys
from runner.config.settings.layer import LayerSettings
from runner.errors import ConfigError, LayerError, MissingArgumentsError, UserError, literal, nearest, no_exit


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


def wrap(layer: LayerSettings, *, x_name: str | None = None, more: Mapping[str, Any] = MappingProxyType({})) -> Bridged:
    """Wraps `layer` as a Linen module.

    Args:
      layer: The layer's settings.
      x_name: The call argument that takes x, or its dotted place in a dict; None: the first one.
      more: Further arrays by call argument.

    Raises:
      LayerError: The target can't be imported, is not an NNX module or factory, or rejects its arguments; or its
        wrapper can't be imported, or does not wrap.
      ConfigError: A keyword argument, or `layer.metadata_fn`, can't be resolved to what it names.
    """
    target = resolve_target(str(layer.target))
    _require_arguments(layer, target)
    kwargs = Arguments(values.resolve_all(target, layer.kwargs))
    call = {key: values.resolve_call(value, path=f"layer.call.{key}") for key, value in layer.call.items()}
    drawn = tuple((key, value.stream) for key, value in call.items() if isinstance(value, Drawn))
    made, has_rngs = _with_rngs(target, kwargs, keeps=bool(drawn))
    # `ToLinen` itself, not `to_linen`, which consumes `name` and three more of the layer's keywords.
    product = products.taken_apart(targets.import_path(str(layer.target)))
    model = wrapper.model_of(
        made,
        kwargs,
        skip_rng=not has_rngs or (product is not None and product.skip_rng),
        wrapper=layer.wrapper,
        metadata_fn=layer.metadata_fn,
        product=product,
    )
    if layer.nnx_method is not None:
        _require_method(layer, target)
    method: Any = layer.nnx_method if x_name is None else Placed(x_name, layer.nnx_method or "__call__")
    if drawn:
        call, method = {key: value for key, value in call.items() if key not in dict(drawn)}, Drawing(drawn, method)
    return called(model, Arguments({**call, **more, **({} if method is None else {METHOD: method})}))


def as_linen(layer: Any, kwargs: Mapping[str, Any], x: Any) -> nn.Module:
    """The Linen module of what Python gives: an NNX class or factory is wrapped, and gets the sizes that x has.

    Args:
      layer: An NNX class or a factory; or a Linen module or its class, which needs no wrapper.
      kwargs: Arguments of the class or factory.
      x: Input, an array.

    Raises:
      UserError: It is none of these, or a module that was made already gets arguments.
      LayerError: As in `wrap`.
    """
    if isinstance(layer, nn.Module) and not kwargs:
        return layer
    if is_linen(layer):
        return layer(**kwargs)
    name = getattr(layer, "__name__", type(layer).__name__)
    if isinstance(layer, (nn.Module, nnx.Module)):
        wanted_instead = "is made already, and takes no kwargs" if isinstance(layer, nn.Module) else "is made already"
        raise UserError(f"layer: a {name} {wanted_instead}; the class itself is wanted", f"{name}, kwargs={{…}}")
    if not callable(layer):
        raise UserError(f"layer: a {name} is neither a class nor a factory that takes rngs", "flax.nnx.Linear")
    shape = jax.numpy.shape(x)
    settings = LayerSettings(target=name, kwargs=dict(kwargs))
    if shape:
        settings = sizes.filled(settings, layer, shape, shape[-1])
    arguments = Arguments(settings.kwargs)
    made, has_rngs = _with_rngs(layer, arguments, keeps=False)
    return wrapper.model_of(made, arguments, skip_rng=not has_rngs)


def _with_rngs(target: Callable[..., nnx.Module], kwargs: Arguments, *, keeps: bool) -> tuple[Any, bool]:
    """What makes the layer from `kwargs` and `rngs`, and whether it takes `rngs` at all."""
    name = sizes.rngs_argument(target)
    name = None if name in kwargs else name
    if name in ("rngs", None) and not kwargs.nested and not keeps:
        return target, name is not None
    return Assembled(target, name, name not in ("rngs", None) and _takes_key(target, str(name), kwargs), keeps), True


def _takes_key(target: Callable[..., nnx.Module], name: str, kwargs: Arguments) -> bool:
    said = sizes.takes_key(target, name)
    if said is not True:
        return said == "key"
    # Neither its name nor an annotation says whether it wants rngs or a key: it is built with rngs first.
    try:
        nnx.eval_shape(lambda: Assembled(target, name)(**kwargs, rngs=nnx.Rngs(0)))
    except Exception:  # noqa: BLE001 - whatever the layer's own code raises
        return True
    return False


def _require_method(layer: LayerSettings, target: Any) -> None:
    # What a factory makes is only known once it is traced.
    if isinstance(target, type) and not callable(getattr(target, str(layer.nnx_method), None)):
        known = [name for name in dir(target) if not name.startswith("_") and name not in dir(nnx.Module)]
        close = nearest(str(layer.nnx_method), known)
        reason = f"{layer.target} has no such method"
        suggestion = f"layer.nnx_method={close}" if close else "layer.nnx_method=null"
        raise ConfigError("layer.nnx_method", layer.nnx_method, reason, suggestion)


def called(model: nn.Module, call: Mapping[str, Any]) -> Bridged:
    """`model` with its call keyword arguments and, for a wrapped layer, the constructor of its native module."""
    wrapped: Any = model

    def construct(rngs: nnx.Rngs) -> nnx.Module:
        with no_exit():
            return axes.construct(wrapped, rngs)

    return Bridged(model=model, call=call, construct=construct if hasattr(model, "nnx_class") else None)


def skips_rng(model: Any) -> bool:
    """Whether a wrapped layer is made without rngs."""
    return bool(getattr(model, "skip_rng", False))


def arguments_of(model: Any) -> dict[str, Any]:
    """The constructor arguments of a wrapped layer by name, positional ones included; empty for a host."""
    if not hasattr(model, "nnx_class"):
        return {}
    return {**dict(zip(parameters(model.nnx_class), model.args, strict=False)), **model.kwargs}


def filled(layer: LayerSettings, shape: Sequence[int], features: int | None) -> LayerSettings:
    """`layer` with the sizes that its constructor needs and that follow from x's shape and `features`.

    Raises:
      LayerError: As in `resolve_target`.
    """
    return sizes.filled(layer, resolve_target(str(layer.target)), shape, features)


def takes_rngs(model: Any) -> str:
    """How the constructor of a wrapped layer takes `{rngs}`, as code: `rngs={rngs}`; empty if it takes none."""
    made = getattr(model, "nnx_class", None)
    name = made.rngs if isinstance(made, Assembled) else "rngs"
    if made is None or skips_rng(model) or name is None:
        return ""
    return f"{name}={{rngs}}{'.params()' if isinstance(made, Assembled) and made.key else ''}"


def seed_arguments(model: Any) -> list[str]:
    """Names of the constructor arguments of a wrapped layer that take a seed; empty for a host."""
    if not hasattr(model, "nnx_class"):
        return []
    return [name for name in parameters(model.nnx_class) if name == "random_state" or name.split("_")[-1] == "seed"]


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
        if product := products.taken_apart(found):
            return product.target
        if issubclass(found, nn.Module):
            raise LayerError(f"layer.target={path}: a flax.linen module already is Linen and needs no bridge")
        if not issubclass(found, nnx.Module):
            raise LayerError(
                f"layer.target={path}: the class {found.__name__} is no flax.nnx.Module", "layer.target=flax.nnx.Linear"
            )
        return found
    # By name: accepting any keyword (as `json.dumps` does) does not make a function a factory.
    if not callable(found) or sizes.rngs_argument(found) not in parameters(found):
        raise LayerError(
            f"layer.target={path}: a {type(found).__name__} is neither an nnx.Module nor a factory that takes rngs",
            "def make_layer(*, rngs): return MyLayer(…, rngs=rngs)",
        )
    return found


def _require_arguments(layer: LayerSettings, target: Callable[..., nnx.Module]) -> None:
    found = parameters(target)
    named = [key for key, item in found.items() if item.kind in BY_NAME and key != "rngs"]
    if missing := sizes.missing(layer, target):
        what = f"layer.target={layer.target}: its constructor also needs {', '.join(missing)}"
        raise MissingArgumentsError(what, [f"layer.kwargs.{key}" for key in missing])
    if unknown := [key for key in layer.kwargs if not takes(found, key)]:
        key, value = unknown[0], layer.kwargs[unknown[0]]
        close = nearest(key, named)
        raise ConfigError(
            f"layer.kwargs.{key}",
            value,
            f"the constructor of {layer.target} takes {', '.join(named) or 'no arguments'}",
            f"layer.kwargs.{close}={literal(value)}" if close else " ".join(f"~layer.kwargs.{one}" for one in unknown),
        )
