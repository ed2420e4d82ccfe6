"""What another process gives other than this one: hashes of text and objects, its id, index and machine; the clock.

Within one process all but the clock never change, and a clock that counts seconds may not, so that tracing twice can't
show them. Either another trace gets other ones, or it is heard that a trace asked for none.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import functools
import linecache
import os
import platform
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any

import jax
from flax import nnx

from runner.checks.user_code import swapped

OTHER_HASH = 0x5DEECE66D
_HASH = re.compile(r"(?<![\w.])hash\(")

OTHER_NAME = "another-machine"

# Another number by halves and quarters, too, and odd.
INDEX, OTHER_INDEX = "jax.process_index", 7

LATER_S = 100_003
_CLOCKS = ("time", "monotonic", "perf_counter", "process_time")
_CALENDAR = ("localtime", "gmtime", "ctime")

# Methods of types written in C, which can't be swapped.
_DATE = re.compile(r"\b(?:now|utcnow|today)\(|[\"'](?:now|today)[\"']")


def answers(*, of_other_host: bool = True) -> contextlib.AbstractContextManager[list[str]]:
    """Answers the user's code as the next process would; gives the calls that were answered so.

    Args:
      of_other_host: Whether that one has another index, too.
    """
    modules = swapped.of_layers()
    index = (jax, "process_index", INDEX, lambda real, *backend: real(*backend) + OTHER_INDEX)
    return swapped.functions(
        [
            *_hash_by(modules, lambda real, value: real(value) ^ OTHER_HASH),
            (os, "getpid", "os.getpid", lambda real: real() + 1),
            (socket, "gethostname", "socket.gethostname", lambda _: OTHER_NAME),
            (platform, "node", "platform.node", lambda _: OTHER_NAME),
            *([index] if of_other_host else []),
            *((time, name, f"time.{name}", lambda real: real() + LATER_S) for name in _CLOCKS),
            *((time, f"{name}_ns", f"time.{name}_ns", lambda real: real() + LATER_S * 10**9) for name in _CLOCKS),
            *((time, name, f"time.{name}", _later) for name in _CALENDAR),
            (time, "strftime", "time.strftime", _later_text),
        ],
        modules,
    )


@contextlib.contextmanager
def heard(modules: Sequence[ModuleType]) -> Iterator[list[str]]:
    """Answers the user's code as ever; gives what it asked, or may have asked, of this process and the clock."""
    named = [(os, "os", "getpid"), (socket, "socket", "gethostname"), (platform, "platform", "node")]
    named += [(jax, "jax", "process_index")]
    clocks = [name for clock in _CLOCKS for name in (clock, f"{clock}_ns")]
    named += [(time, "time", name) for name in (*clocks, *_CALENDAR, "strftime", "asctime")]
    swaps = [(owner, name, f"{module}.{name}", _real) for owner, module, name in named]
    with swapped.functions([*_hash_by(modules, _real), *swaps], modules) as asked:
        asked += [file for file in _files(modules) if _reads_date(file)]
        asked += [one.__name__ for one in modules if _is_unread(one)]
        yield asked


def _hash_by(modules: Sequence[ModuleType], other: Callable[..., Any]) -> list[swapped.Swap]:
    # JAX asks for a hash thousands of times in a trace: it is slower by a quarter with another function in its place.
    if not any(map(_calls_hash, _files(modules))):
        return []

    def answer(real: Callable[[Any], int], value: Any) -> Any:
        return other(real, value) if _is_another(value) else swapped.AS_EVER

    return [(builtins, "hash", "hash", answer)]


def _later(real: Callable[..., Any], seconds: float | None = None) -> Any:
    return swapped.AS_EVER if seconds is not None else real(time.time() + LATER_S)


def _later_text(real: Callable[..., str], text: str, *moment: Any) -> Any:
    return swapped.AS_EVER if moment else real(text, time.localtime(time.time() + LATER_S))


def _real(real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return real(*args, **kwargs)


def _files(modules: Sequence[ModuleType]) -> list[str]:
    files = [getattr(module, "__file__", None) or "" for module in modules]
    return [file for file in files if file.endswith(".py")]


def _is_unread(module: Any) -> bool:
    """Whether a module of the user's own has code that is in no file: typed at a prompt, a notebook."""
    if hasattr(module, "__path__") or getattr(module, "__file__", None):
        return False
    return any(
        value.__module__ == module.__name__
        for value in vars(module).copy().values()
        if isinstance(value, FunctionType) or (isinstance(value, type) and issubclass(value, nnx.Module))
    )


@functools.lru_cache(4096)
def _calls_hash(file: str) -> bool:
    return any(_HASH.search(line) for line in linecache.getlines(file))


@functools.lru_cache(4096)
def _reads_date(file: str) -> bool:
    return any(_DATE.search(line) for line in linecache.getlines(file))


def _is_salted() -> bool:
    return os.environ.get("PYTHONHASHSEED", "random") == "random"


def _is_another(value: Any) -> bool:
    """Whether the next process hashes a value otherwise: text and what holds text by its salt, objects by address."""
    if isinstance(value, (tuple, frozenset)):
        return any(map(_is_another, value))
    if isinstance(value, (str, bytes, Enum)):  # a member is hashed by its name
        return _is_salted()
    by_address = getattr(type(value), "__hash__", None) is object.__hash__
    if dataclasses.is_dataclass(value) and not by_address:
        hashed = [one.name for one in dataclasses.fields(value) if (one.compare if one.hash is None else one.hash)]
        return any(_is_another(getattr(value, name)) for name in hashed)
    return by_address
