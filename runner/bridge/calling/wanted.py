"""What a constructor wants of a value: text, a function, a tuple; read from its annotation and its default."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

EMPTY = inspect.Parameter.empty
BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
SEQUENCES = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is known of one argument.

    Attributes:
      kinds: Those of its annotation: text, function, tuple, list, dict, none, other; empty if it has none that says.
      items: The annotations of the elements of a list, tuple or dict.
      default: The default value; `EMPTY` if there is none.
    """

    kinds: frozenset[str] = frozenset()
    items: tuple[Any, ...] = ()
    default: Any = EMPTY

    @property
    def text(self) -> bool:
        """Whether text stays text: an annotation with `str` in it, or no telling one and a default that is text."""
        return "text" in self.kinds or ("function" not in self.kinds and isinstance(self.default, str))

    @property
    def only_text(self) -> bool:
        """Whether it takes text (or None) and nothing else, so that a dtype is also given by name."""
        return self.text and not self.kinds - {"text", "none"}

    @property
    def function(self) -> bool:
        """Whether text names a function or class."""
        return not self.text and ("function" in self.kinds or _is_function(self.default))

    @property
    def tuple(self) -> bool:
        """Whether a list must become a tuple: YAML has none."""
        return "tuple" in self.kinds and "list" not in self.kinds

    @property
    def element(self) -> Wanted:
        """What is wanted of every element of a list, or value of a dict."""
        found = [_kinds(item) for item in self.items]
        inner = tuple(item for one in found for item in one[1])
        kinds = frozenset(kind for one in found for kind in one[0])
        listed = isinstance(self.default, (list, tuple)) and len(self.default) > 0
        return Wanted(kinds=kinds, items=inner, default=self.default[0] if listed else EMPTY)


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a class's constructor or of a function by name, without `self`; none if they can't be read."""
    if isinstance(target, functools.partial):
        left = list(parameters(target.func).items())[len(target.args) :]
        bound = target.keywords
        return {key: item.replace(default=bound[key]) if key in bound else item for key, item in left}
    # The signature of a module class is its metaclass's, which accepts anything: its constructor is what counts.
    try:
        found = list(inspect.signature(_function(target)).parameters.items())
    except (TypeError, ValueError):
        return {}
    return dict(found[1:] if isinstance(target, type) else found)


def takes(found: Mapping[str, inspect.Parameter], name: str) -> bool:
    """Whether a keyword of that name is taken."""
    if name in found:
        return found[name].kind is not inspect.Parameter.POSITIONAL_ONLY
    return any(item.kind is inspect.Parameter.VAR_KEYWORD for item in found.values())


def wanted(target: Callable[..., Any], parameter: inspect.Parameter | None) -> Wanted:
    """What `parameter` of `target` wants; nothing is known of one that is only in `**kwargs`."""
    if parameter is None or parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return Wanted()
    kinds, items = _kinds(annotation(target, parameter))
    return Wanted(kinds=frozenset(kinds), items=items, default=parameter.default)


def annotation(target: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The annotation of a parameter as an object; its text if its names can't be found."""
    found = parameter.annotation
    if not isinstance(found, str):
        return found
    names = getattr(inspect.unwrap(_function(target)), "__globals__", {})
    try:
        holder = type("Holder", (), {"__annotations__": {"value": found}})
        return typing.get_type_hints(holder, dict(names), include_extras=True)["value"]
    except Exception:  # noqa: BLE001 - a name that only the type checker imports
        return found


def members(found: Any) -> list[Any]:
    """The members of a union, or the annotation alone."""
    if typing.get_origin(found) in (typing.Union, types.UnionType):
        return [inner for item in typing.get_args(found) for inner in members(item)]
    return members(typing.get_args(found)[0]) if typing.get_origin(found) is typing.Annotated else [found]


def _function(target: Callable[..., Any]) -> Any:
    target = target.func if isinstance(target, functools.partial) else target
    return vars(target).get("__init__", getattr(target, "__init__")) if isinstance(target, type) else target  # noqa: B009


def _is_function(default: Any) -> bool:
    return callable(default) and default is not EMPTY and not _is_dtype(default)


def _is_dtype(value: Any) -> bool:
    try:
        jnp.dtype(value)
    except TypeError:
        return False
    return not inspect.isfunction(value)


def _kinds(found: Any) -> tuple[set[str], tuple[Any, ...]]:
    """The kinds of an annotation, and the annotations of its elements."""
    if isinstance(found, str):
        return _kinds_of_text(found)
    found = getattr(found, "__supertype__", getattr(found, "__bound__", None) or found)
    origin, inner = typing.get_origin(found), typing.get_args(found)
    if origin is typing.Annotated:
        return _kinds(inner[0])
    if origin in (typing.Union, types.UnionType):
        parts = [_kinds(item) for item in inner]
        return set().union(*(kinds for kinds, _ in parts)), tuple(item for _, items in parts for item in items)
    if origin is typing.Literal:
        return {"text" if isinstance(item, str) else "none" if item is None else "other" for item in inner}, ()
    kind = origin or found
    if kind in (tuple, *SEQUENCES):
        return {"tuple" if kind is tuple else "list"}, tuple(item for item in inner if item is not ...)
    if kind in MAPPINGS:
        return {"dict"}, inner[1:]
    return _kinds_of_class(kind), ()


def _kinds_of_class(kind: Any) -> set[str]:
    if kind in (EMPTY, Any, object):
        return set()
    if kind in (None, type(None)):
        return {"none"}
    if kind is str:
        return {"text"}
    if kind in (collections.abc.Callable, type) or (getattr(kind, "_is_protocol", False) and "__call__" in vars(kind)):
        return {"function"}
    return {"other"} if isinstance(kind, type) else set()


def _kinds_of_text(found: str) -> tuple[set[str], tuple[Any, ...]]:
    """The same of an annotation whose names can't be found."""
    if re.search(r"\b(list|List|Sequence|tuple|Tuple|dict|Dict|Mapping)\[", found):
        return set(), ()
    if re.search(r"\bstr\b|\bLiteral\[", found):
        return {"text"}, ()
    return ({"function"} if re.search(r"\b(Callable|Initializer|type)\b", found) else set()), ()
