"""Values that the code of a layer reaches from outside of its module: attributes of classes, globals, closures."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

# Their classes and functions are looked into no further.
LIBRARIES = ("flax", "jax", "numpy", "builtins", "functools", "typing", "collections", "abc", "optax", "chex", "scipy")


def values(*targets: Any) -> Iterator[tuple[str, Any]]:
    """What `targets`, classes or functions, reach by name: `MyLayer.scale`, `TABLE[8]`.

    Containers are looked into, and functions and classes that are reached, except those of libraries.
    """
    todo, seen = list(targets), set[int]()
    while todo:
        target = todo.pop()
        if id(target) in seen or _is_of_library(target):
            continue
        seen.add(id(target))
        for name, value in _attributes(target):
            for place, leaf in _leaves(name, value):
                if isinstance(leaf, (type, FunctionType, functools.partial)) or hasattr(leaf, "__wrapped__"):
                    todo.append(leaf)
                else:
                    yield place, leaf


def _attributes(target: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(target, type):
        for kind in target.__mro__:
            if not _is_of_library(kind):
                for name, value in vars(kind).items():
                    yield f"{kind.__name__}.{name}", _plain(value)
        return
    if isinstance(target, functools.partial):
        yield "partial", [target.func, *target.args, *target.keywords.values()]
        return
    function: Any = inspect.unwrap(target) if callable(target) else target
    if not isinstance(function, FunctionType):
        return
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _plain(value: Any) -> Any:
    """The function of a static or class method, or of a property."""
    inner: Callable[..., Any] | None = getattr(value, "__func__", None) or getattr(value, "fget", None)
    return inner or value


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _names(const)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if type(value) is dict:
        items: Iterable[tuple[Any, Any]] = value.items()
    elif type(value) in (list, tuple):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, one in items:
        if not isinstance(one, Mapping):
            yield f"{name}[{key!r}]", one


def _is_of_library(target: Any) -> bool:
    module = getattr(target, "__module__", None) or ""
    return str(module).partition(".")[0] in LIBRARIES
