"""Functions of Python and NumPy that give a traced layer's code other values, to see what comes from them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from flax import nnx

_LIBRARIES = {"jax", "jaxlib", "flax", "numpy", "optax", "orbax", "etils", "absl", "psutil", "wandb", "runner"}
_NOT_THE_LAYERS = frozenset({*_LIBRARIES, *sys.stdlib_module_names})

# What owns it, its name there, how it is written, and what it gives: (the function, its arguments) -> another value.
Swap = tuple[Any, str, str, Callable[..., Any]]

# The globals of a module of the user's, and the name there: of `from os import getpid`.
Binding = tuple[dict[str, Any], str]

# A call that is answered as ever.
AS_EVER = object()


class _Thread(threading.local):
    """The answers of this thread, and the calls that got them, by how the function is written; others get the real."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[list[str], Callable[..., Any]]] = {}
        self.answering = False


_THREAD = _Thread()


class _Swapped:
    """Stands for a function or a class, whose attributes and `isinstance` are those of the real one."""

    def __init__(self, swap: Swap, bound: Sequence[Binding]) -> None:
        owner, name, self._spelled, _ = swap
        self.real = getattr(owner, name)
        self._bound = bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        answers = _THREAD.asked.get(self._spelled)
        # NumPy's functions ask for each other.
        if answers is None or _THREAD.answering or not is_user(sys._getframe(1).f_globals.get("__name__", "")):
            return self.real(*args, **kwargs)
        asked, other = answers
        _THREAD.answering = True
        try:
            value = other(self.real, *args, **kwargs)
            if value is AS_EVER:
                return self.real(*args, **kwargs)
        finally:
            _THREAD.answering = False
        given = [*map(repr, args), *(f"{name}={item!r}" for name, item in kwargs.items())]
        called = f"{self._spelled}({', '.join(given)})"
        asked.extend([called] if called not in asked else [])
        return value

    def put(self) -> None:
        """Stands for the function by all its names."""
        for names, name in self._bound:
            names[name] = self

    def take_back(self) -> None:
        """Gives all its names back to the function."""
        for names, name in self._bound:
            if names.get(name) is self:
                names[name] = self.real

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, self.real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


_LOCK = threading.Lock()
# In place now, by how they are written: who has other answers may be several threads at a time.
_IN_PLACE: dict[str, tuple[_Swapped, int]] = {}


@contextlib.contextmanager
def functions(swaps: Sequence[Swap], modules: Sequence[ModuleType] | None = None) -> Iterator[list[str]]:
    """Swaps functions for calls by the user's code in this thread; yields what was answered: `hash('key')`.

    Args:
      swaps: The functions with their other answers.
      modules: What `of_layers` gives, where it is known.
    """
    asked: list[str] = []
    before = _THREAD.asked
    modules = of_layers() if modules is None else modules
    bound = _bound_to([getattr(owner, name) for owner, name, _, _ in swaps], modules)
    for swap, names in zip(swaps, bound, strict=True):
        _put(swap, names)
    _THREAD.asked = before | {spelled: (asked, other) for _, _, spelled, other in swaps}
    try:
        yield asked
    finally:
        _THREAD.asked = before
        for swap in swaps:
            _take_back(swap)


def _put(swap: Swap, bound: Sequence[Binding]) -> None:
    owner, name, spelled, _ = swap
    with _LOCK:
        if spelled not in _IN_PLACE:
            swapped = _Swapped(swap, bound)
            setattr(owner, name, swapped)
            swapped.put()
            _IN_PLACE[spelled] = swapped, 0
        swapped, users = _IN_PLACE[spelled]
        _IN_PLACE[spelled] = swapped, users + 1


def _take_back(swap: Swap) -> None:
    owner, name, spelled, _ = swap
    with _LOCK:
        swapped, users = _IN_PLACE[spelled]
        if users > 1:
            _IN_PLACE[spelled] = swapped, users - 1
        else:
            del _IN_PLACE[spelled]
            setattr(owner, name, swapped.real)
            swapped.take_back()


def _bound_to(functions: Sequence[Any], modules: Sequence[ModuleType]) -> list[list[Binding]]:
    """The global names that the modules of layers have for each of the functions."""
    found: dict[int, list[Binding]] = {id(one): [] for one in functions}
    for module in modules:
        names = vars(module)
        # Of most modules nothing is found, and that is seen at once.
        if found.keys().isdisjoint(map(id, list(names.values()))):
            continue
        for name, value in names.copy().items():
            if id(value) in found:
                found[id(value)].append((names, name))
    return [found[id(one)] for one in functions]


def of_layers() -> list[ModuleType]:
    """The user's modules; of installed packages, only those that use NNX: the others make no layers."""
    found, installed = [], dict[str, list[ModuleType]]()
    for name, one in sys.modules.copy().items():  # at once: other threads import meanwhile
        if not is_user(name) or not isinstance(one, ModuleType):
            continue
        package = name.partition(".")[0]
        if "-packages" in (vars(one).get("__file__") or ""):
            installed.setdefault(package, []).append(one)
        else:
            found.append(one)
    using = [modules for modules in installed.values() if any(map(_has_nnx, modules))]
    return [*found, *itertools.chain.from_iterable(using)]


@functools.lru_cache(8192)
def _has_nnx(module: ModuleType) -> bool:
    return any(value is nnx for value in vars(module).copy().values())  # at once, as above


def is_user(module: str) -> bool:
    """Whether a module, by its name, is none of JAX, Flax, NumPy, W&B, Orbax, Python or ours."""
    return module.partition(".")[0] not in _NOT_THE_LAYERS
