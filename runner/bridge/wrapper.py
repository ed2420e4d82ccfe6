"""What makes a Linen module of an NNX class: the bridge's own `ToLinen`, or what `layer.wrapper` names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
from flax import nnx
from flax.nnx import bridge

from runner.bridge import boxes, targets
from runner.bridge.calling.wanted import parameters
from runner.bridge.products import Product, taken_apart
from runner.config.settings.layer import LayerSettings
from runner.errors import ConfigError, LayerError, UserError, nearest, no_exit

DEFAULT, NONE = "default", "none"

# By the names that `layer.metadata_fn` has for them.
METADATA: Mapping[str, Callable[[nnx.Variable[Any]], Any] | None] = {NONE: None, "logical": boxes.logical}

FIELDS = ("nnx_class", "kwargs")


def model_of(
    made: Callable[..., nnx.Module],
    kwargs: Mapping[str, Any],
    *,
    skip_rng: bool,
    wrapper: str | None = None,
    metadata_fn: str = DEFAULT,
    product: Product | None = None,
) -> nn.Module:
    """The Linen module of an NNX class or factory.

    Args:
      made: What makes the layer.
      kwargs: Its arguments, hashable.
      skip_rng: Whether it takes no rngs.
      wrapper: Dotted path of the class or function that wraps it; None for the product, or flax's own `ToLinen`.
      metadata_fn: `layer.metadata_fn`.
      product: The class made by `to_linen_class` that the layer was found in.

    Raises:
      LayerError: The wrapper can't be imported, or does not wrap.
      ConfigError: There is no such function of metadata, or the wrapper takes none.
    """
    given: dict[str, Any] = {} if metadata_fn == DEFAULT else {"metadata_fn": metadata(metadata_fn)}
    if skip_rng:
        given["skip_rng"] = True
    if wrapper is not None:
        found = targets.import_path(wrapper, key="layer.wrapper")
        return _of_wrapper(found, made, kwargs, given, path=wrapper, metadata_fn=metadata_fn)
    if product is not None:
        return product.wrapper(
            nnx_class=made, kwargs=kwargs, **{**product.more, "metadata_fn": product.metadata_fn, **given}
        )
    return bridge.ToLinen(made, kwargs=kwargs, **given)


def metadata(text: str) -> Callable[[nnx.Variable[Any]], Any] | None:
    """The function of an `nnx.Variable` that `layer.metadata_fn` names; None for bare arrays.

    Raises:
      ConfigError: There is no such function.
    """
    key = "layer.metadata_fn"
    if text in METADATA:
        return METADATA[text]
    if not targets.DOTTED.fullmatch(text):
        close = nearest(text, [*METADATA, DEFAULT]) or "logical"
        reason = f"it is {', '.join(METADATA)}, {DEFAULT} or a dotted path"
        raise ConfigError(key, text, reason, f"{key}={close}")
    found = targets.import_path(text, key=key)
    if not callable(found):
        raise ConfigError(key, text, f"a {type(found).__name__} can't be called", f"{key}=logical")
    return found


def rewrapped(model: Any, *, wrapper: Any = None, metadata_fn: Any = DEFAULT) -> nn.Module:
    """`model`, or the layer in the host that it is, wrapped and boxed in another way.

    Args:
      model: A wrapped layer, or a host of ours with one in it.
      wrapper: A class or function, or its dotted path; None keeps the layer's own.
      metadata_fn: A function of the `nnx.Variable`, None for bare arrays, or text as in a config.

    Raises:
      UserError: The model holds no wrapped layer that could be wrapped again.
      LayerError: As in `model_of`.
      ConfigError: As in `model_of`.
    """
    maker = getattr(model, "layer", None)
    if dataclasses.is_dataclass(maker) and hasattr(maker, "model"):
        inner = rewrapped(maker.model, wrapper=wrapper, metadata_fn=metadata_fn)
        return model.clone(layer=dataclasses.replace(maker, model=inner))  # type: ignore[type-var]
    if not hasattr(model, "nnx_class"):
        what = f"model is a {type(model).__name__}, and wrapper= and metadata_fn= are for a wrapped layer"
        raise UserError(what, "both where the layer is wrapped, in the host")
    function = metadata(metadata_fn) if isinstance(metadata_fn, str) and metadata_fn != DEFAULT else metadata_fn
    given = {} if metadata_fn == DEFAULT else {"metadata_fn": function}
    if wrapper is None:
        return model.clone(**given)
    found = targets.import_path(wrapper, key="wrapper") if isinstance(wrapper, str) else wrapper
    path = wrapper if isinstance(wrapper, str) else getattr(wrapper, "__name__", str(wrapper))
    given |= {"skip_rng": True} if getattr(model, "skip_rng", False) else {}
    made = functools.partial(model.nnx_class, *model.args) if model.args else model.nnx_class
    return _of_wrapper(found, made, model.kwargs, given, path=path, metadata_fn=metadata_fn)


def _of_wrapper(
    found: Any, made: Any, kwargs: Mapping[str, Any], given: dict[str, Any], *, path: str, metadata_fn: Any
) -> nn.Module:
    is_class = isinstance(found, type)
    if is_class and not issubclass(found, nn.Module):
        _refuse(path, f"the class {found.__name__} is no flax.linen.Module")
    if not callable(found):
        _refuse(path, f"a {type(found).__name__} can't be called")
    known = {item.name for item in dataclasses.fields(found)} if is_class else set(parameters(found))
    if is_class and (missing := [name for name in FIELDS if name not in known]):
        _refuse(path, f"the class {found.__name__} has no field {missing[0]}")
    if "metadata_fn" in given and "metadata_fn" not in known:
        reason = f"{path} takes no metadata_fn"
        raise ConfigError("layer.metadata_fn", metadata_fn, reason, f"layer.metadata_fn={DEFAULT}")
    given = {name: value for name, value in given.items() if name in known}
    try:
        with no_exit():
            model = found(nnx_class=made, kwargs=kwargs, **given) if is_class else found(made, **kwargs, **given)
    except Exception as error:
        raise LayerError(f"layer.wrapper={path}: it raises {type(error).__name__}: {error}", _OWN) from error
    if not isinstance(model, nn.Module):
        _refuse(path, f"it gives a {type(model).__name__}, and no flax.linen.Module")
    # A static argument of jit must be hashable, and compare by value.
    has_kwargs = not is_class and "kwargs" in {item.name for item in dataclasses.fields(model)}
    return model.clone(kwargs=kwargs) if has_kwargs else model


_OWN = "layer.wrapper=flax.nnx.bridge.ToLinen"


def _refuse(path: str, reason: str) -> None:
    raise LayerError(f"layer.wrapper={path}: {reason}", _OWN)


def code(layer: LayerSettings) -> str:
    """The Linen module of `layer` as code; empty where it is flax's own `ToLinen` with its defaults."""
    target = str(layer.target)
    product = taken_apart(targets.import_path(target))
    if layer.wrapper is None and layer.metadata_fn == DEFAULT and product is None:
        return ""
    parts = [f"{key}={value!r}" for key, value in layer.kwargs.items()]
    wrapped = layer.wrapper or "flax.nnx.bridge.ToLinen"
    boxed = [] if layer.metadata_fn == DEFAULT else [f"metadata_fn={_metadata_code(layer.metadata_fn)}"]
    if layer.wrapper is None and product is not None:
        wrapped = _name(product.wrapper.__mro__[1])
        boxed = boxed or [f"metadata_fn={'None' if product.metadata_fn is None else _name(product.metadata_fn)}"]
    if isinstance(targets.import_path(wrapped, key="layer.wrapper"), type):
        parts = [f"kwargs=FrozenDict({', '.join(parts)})"] if parts else []
    return f"{_dotted(wrapped)}({', '.join([class_code(layer) or _dotted(target), *parts, *boxed])})"


def class_code(layer: LayerSettings) -> str:
    """The NNX class that a product of `to_linen_class` holds, as code; empty for another target."""
    product = taken_apart(targets.import_path(str(layer.target)))
    if product is None:
        return ""
    bound = "".join(f", {key}={value!r}" for key, value in product.kwargs.items())
    return f"functools.partial({_name(product.nnx_class)}{bound})" if bound else _name(product.nnx_class)


def _metadata_code(text: str) -> str:
    found = metadata(text)
    return "None" if found is None else _name(found)


def _name(found: Any) -> str:
    inner = found.func if isinstance(found, functools.partial) else found
    name = getattr(inner, "__qualname__", None)
    return repr(found) if name is None or inner is not found else f"{inner.__module__}.{name}"


def _dotted(path: str) -> str:
    return path.replace(":", ".")
