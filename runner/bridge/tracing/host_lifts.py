"""The lifts of a host (`nn.scan`, `nn.vmap`, `nn.map_variables`, …): which collections they carry, and other arguments.

All of flax's lifts call `flax.core.lift.pack` each time that the lifted module is called. While a host is watched that
function is another one, which notes the lift on a stack, and builds it again with other arguments where a change of it
is to be tried. So a lift is seen wherever the host has made it, at import too.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import flax
import jax
from flax.core import lift
from flax.core import scope as linen_scope

# What is in these folders is no line of the host's; our own hosts carry everything.
_LIBRARIES = (
    *(str(Path(str(module.__file__)).parent) + os.sep for module in (flax, jax)),
    str(Path(__file__).parents[2]) + os.sep,
)

# One watcher at a time: the function that it replaces is the whole process's.
_LOCK = threading.RLock()


@dataclass(frozen=True, kw_only=True)
class HostLift:
    """A lift in a host.

    Attributes:
      kind: Its name in `flax.linen`: scan, vmap, map_variables, remat, …
      place: The line of the host that calls it, `encoder.py:25`.
      out: flax's filters of the collections that come out of it.
      arguments: Its arguments by name; empty where they can't be told.
    """

    kind: str
    place: str
    out: tuple[Any, ...]
    arguments: Mapping[str, Any]

    def carries(self, collection: str) -> bool:
        """Whether what is made or changed inside in `collection` comes out."""
        return any(linen_scope.in_filter(one, collection) for one in self.out)


@dataclass(frozen=True, kw_only=True)
class Change:
    """Other arguments for a lift.

    Attributes:
      kind: As in `HostLift`.
      place: As in `HostLift`.
      arguments: The arguments that replace its own.
    """

    kind: str
    place: str
    arguments: Mapping[str, Any]

    def is_of(self, one: HostLift) -> bool:
        """Whether it is a change of this lift."""
        return (self.kind, self.place) == (one.kind, one.place)


class _Watched(threading.local):
    stack: tuple[HostLift, ...] = ()
    changes: Sequence[Change] | None = None


_watched = _Watched()


def current() -> tuple[HostLift, ...]:
    """The lifts that this code runs inside of, from the outermost in; none where they are not watched."""
    return _watched.stack


@contextlib.contextmanager
def watching(changes: Sequence[Change] = ()) -> Iterator[None]:
    """Notes the lifts that this thread enters, and gives those of `changes` other arguments."""
    with _LOCK, mock.patch.object(lift, "pack", _pack_of(lift.pack)):
        _watched.changes = tuple(changes)
        try:
            yield
        finally:
            _watched.changes = None


def _pack_of(pack: Callable[..., Any]) -> Callable[..., Any]:
    def noted(fn: Any, into: Any, out: Any, *rest: Any, **named: Any) -> Any:
        packed, changes = pack(fn, into, out, *rest, **named), _watched.changes
        if changes is None:  # another thread's lift
            return packed
        make, arguments = _caller(sys._getframe(1))
        kind = str(named.get("name", make.__name__ if make else "lift"))

        def run(scopes: Any, *args: Any, **kwargs: Any) -> Any:
            one = HostLift(kind=kind, place=_place(), out=tuple(out), arguments=arguments)
            for change in changes:
                if make is not None and change.is_of(one) and not _holds(arguments, change.arguments):
                    return make(**{**arguments, **change.arguments})(scopes, *args, **kwargs)
            outside = _watched.stack
            _watched.stack = (*outside, one)
            try:
                return packed(scopes, *args, **kwargs)
            finally:
                _watched.stack = outside

        return run

    return noted


def _caller(frame: Any) -> tuple[Callable[..., Any] | None, Mapping[str, Any]]:
    """The lift whose frame this is, and its arguments; none if it can't be called again with others."""
    found = getattr(lift, frame.f_code.co_name, None)
    if not inspect.isfunction(found) or found.__code__ is not frame.f_code:
        return None, {}
    parameters = inspect.signature(found).parameters
    if any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters.values()):
        return None, {}
    return found, {name: frame.f_locals[name] for name in parameters}


def _holds(arguments: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(arguments.get(name) == value for name, value in wanted.items())


def _place() -> str:
    """File and line of the innermost frame that is no library's and none of ours."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back
    return "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
