"""Finds the Linen twin of an NNX layer, if there is one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from flax import linen as nn
from flax import nnx

from runner.bridge.wrap import Bridged

TWINS: Mapping[Any, type[nn.Module]] = {
    nnx.Linear: nn.Dense,
    nnx.LinearGeneral: nn.DenseGeneral,
    nnx.Einsum: nn.Einsum,
    nnx.Conv: nn.Conv,
    nnx.ConvTranspose: nn.ConvTranspose,
    nnx.Embed: nn.Embed,
    nnx.MultiHeadAttention: nn.MultiHeadDotProductAttention,
    nnx.LayerNorm: nn.LayerNorm,
    nnx.RMSNorm: nn.RMSNorm,
    nnx.GroupNorm: nn.GroupNorm,
    nnx.InstanceNorm: nn.InstanceNorm,
    nnx.BatchNorm: nn.BatchNorm,
    nnx.PReLU: nn.PReLU,
}

# Arguments that Linen infers from its input.
FROM_INPUT = frozenset({"in_features", "num_features"})

# Arguments with the same name in both, but called differently.
CALLED_OTHERWISE = frozenset({"promote_dtype", "attention_fn"})

# Arguments that Linen accepts in the constructor or in the call, but not in both.
IN_CALL_TOO = frozenset({"use_running_average", "deterministic"})


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A Linen twin, or the reason that there is none.

    Attributes:
      name: Its class, `nn.Dense`; empty if flax has none of the kind.
      layer: The layer; None if there is none.
      why: The reason that there is none.
    """

    name: str = ""
    layer: Bridged | None = None
    why: str = ""


class _NoTwinError(Exception):
    """An argument without a Linen equivalent."""


def twin_of(nnx_class: Any, kwargs: Mapping[str, Any], call: Mapping[str, Any] = MappingProxyType({})) -> Twin:
    """The Linen layer equivalent to `nnx_class(**kwargs)`, with the same variables.

    Args:
      nnx_class: A class of flax.nnx; a subclass of one has no twin.
      kwargs: Arguments of its constructor.
      call: Keyword arguments of every call.
    """
    linen_class = TWINS.get(nnx_class)
    if linen_class is None:
        return Twin(why=_why_none(nnx_class))
    name = f"nn.{linen_class.__name__}"
    try:
        in_call = {key: call[key] for key in IN_CALL_TOO & call.keys()}
        given = _defaults(nnx_class) | dict(kwargs) | in_call
        _require_call(nnx_class, linen_class, call)
        taken = _SPECIAL.get(nnx_class, dict)(given)
        arguments = {key: value for key, value in taken.items() if key not in FROM_INPUT}
        model = linen_class(**_translated(nnx_class, linen_class, arguments, call))
    except _NoTwinError as error:
        return Twin(name=name, why=f"nnx.{nnx_class.__name__}'s {error}")
    return Twin(name=name, layer=Bridged(model=model, call=dict(call)))


def _why_none(nnx_class: Any) -> str:
    name = getattr(nnx_class, "__name__", str(nnx_class))
    if nnx_class is nnx.Dropout:
        return "nn.Dropout draws its mask from another key"
    # A user's class may have the same name as one of flax's.
    known = hasattr(nn, name) and nnx_class is getattr(nnx, name, None)
    return f"nn.{name} has another tree of variables" if known else f"flax.linen has no {name}"


def _translated(
    nnx_class: Any, linen_class: type[nn.Module], arguments: Mapping[str, Any], call: Mapping[str, Any]
) -> dict[str, Any]:
    defaults = _defaults(nnx_class)
    fields = linen_class.__dataclass_fields__
    translated = {}
    for key, value in arguments.items():
        if key in IN_CALL_TOO and key in call:
            continue
        is_default = key in defaults and _same(value, defaults[key])
        if key in fields and key not in CALLED_OTHERWISE:
            # Default initialisers and dot products are equivalent in both; others may not be (use_running_average).
            if not (is_default and callable(value) and not isinstance(value, type)):
                translated[key] = value
        elif not is_default:
            raise _NoTwinError(f"{key} has no equivalent in nn.{linen_class.__name__}")
    return translated


def _require_call(nnx_class: Any, linen_class: type[nn.Module], call: Mapping[str, Any]) -> None:
    known = inspect.signature(linen_class.__call__).parameters
    for key in call:
        if key not in known:
            raise _NoTwinError(f"call argument {key} has no equivalent in nn.{linen_class.__name__}")


def _same(value: Any, default: Any) -> bool:
    # An array, such as a mask, is never a default, and `==` on it is elementwise.
    return value is default or (not hasattr(value, "shape") and bool(value == default))


def _defaults(nnx_class: Any) -> dict[str, Any]:
    parameters = inspect.signature(nnx_class.__init__).parameters.values()
    return {item.name: item.default for item in parameters if item.default is not item.empty}


def _features(given: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in given.items() if key != "out_features"}
    return {**rest, "features": given["out_features"]}


def _linear_general(given: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in _features(given).items() if key != "batch_axis"}
    return {**rest, "batch_dims": tuple(given["batch_axis"])}


def _einsum(given: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in given.items() if key not in ("kernel_shape", "bias_shape")}
    return {**rest, "shape": given["kernel_shape"], "use_bias": given["bias_shape"] is not None}


def _attention(given: Mapping[str, Any]) -> dict[str, Any]:
    if given["decode"]:
        raise _NoTwinError("decode keeps its cache otherwise in nn.MultiHeadDotProductAttention")
    if given["dropout_rate"] > 0 and not given["deterministic"]:
        raise _NoTwinError("dropout_rate draws its mask from another key in nn.MultiHeadDotProductAttention")
    same = {"num_kv_heads": given["num_heads"], "in_kv_features": given["in_features"]}
    rest = {
        key: value
        for key, value in given.items()
        if key not in ("decode", "keep_rngs") and not (key in same and value == same[key])
    }
    return rest


_SPECIAL: Mapping[Any, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    nnx.Linear: _features,
    nnx.LinearGeneral: _linear_general,
    nnx.Einsum: _einsum,
    nnx.Conv: _features,
    nnx.ConvTranspose: _features,
    nnx.MultiHeadAttention: _attention,
}
