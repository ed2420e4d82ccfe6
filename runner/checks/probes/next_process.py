"""What the next process gives other than this one: hashes of text, the process id, the name of the machine.

Within one process they never change, so that tracing twice can't show them. The second trace gets other ones.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

_NOT_THE_LAYERS = frozenset({"jax", "jaxlib", "flax", "numpy", "optax", "runner", *sys.stdlib_module_names})

OTHER_HASH = 0x5DEECE66D
OTHER_NAME = "another-machine"


@contextlib.contextmanager
def answers() -> Iterator[list[str]]:
    """Answers code of the user as the next process would; yields the names of what was asked, e.g. `hash('key')`."""
    asked: list[str] = []

    def answer(name: str, real: Callable[..., Any], other: Callable[[Any], Any]) -> Callable[..., Any]:
        def replaced(*args: Any, **kwargs: Any) -> Any:
            value = real(*args, **kwargs)
            if not _is_user(sys._getframe(1).f_globals.get("__name__", "")):
                return value
            if name == "hash" and (not _is_salted() or not _holds_text(args[0])):
                return value
            called = f"{name}({', '.join(map(repr, args))})"
            asked.extend([called] if called not in asked else [])
            return other(value)

        return replaced

    places: list[tuple[Any, str, str, Callable[[Any], Any]]] = [
        (builtins, "hash", "hash", lambda value: value ^ OTHER_HASH),
        (os, "getpid", "os.getpid", lambda value: value + 1),
        (socket, "gethostname", "socket.gethostname", lambda _: OTHER_NAME),
        (platform, "node", "platform.node", lambda _: OTHER_NAME),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, spelled, other in places:
            real = getattr(owner, name)
            setattr(owner, name, answer(spelled, real, other))
            stack.callback(setattr, owner, name, real)
        yield asked


@functools.lru_cache(4096)
def _is_user(module: str) -> bool:
    return module.split(".")[0] not in _NOT_THE_LAYERS


def _is_salted() -> bool:
    return os.environ.get("PYTHONHASHSEED", "random") == "random"


def _holds_text(value: Any) -> bool:
    """Whether a hash is salted: of text, and of what holds text."""
    if isinstance(value, (tuple, frozenset)):
        return any(map(_holds_text, value))
    return isinstance(value, (str, bytes))
