"""What the next process gives other than this one: hashes of text, the process id, the name of the machine.

Within one process they never change, so that tracing twice can't show them. The second trace gets other ones.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import linecache
import os
import platform
import re
import socket
from collections.abc import Callable
from typing import Any

from runner.checks.user_code import swapped

OTHER_HASH = 0x5DEECE66D
_HASH = re.compile(r"(?<![\w.])hash\(")

OTHER_NAME = "another-machine"


def answers() -> contextlib.AbstractContextManager[list[str]]:
    """Answers the user's code as the next process would; gives the calls that were answered so."""
    # JAX asks for a hash thousands of times in a trace: it is slower by a quarter with another function in its place.
    hashes = [(builtins, "hash", "hash", _hash)] if any(map(_calls_hash, _files())) else []
    return swapped.functions(
        [
            *hashes,
            (os, "getpid", "os.getpid", lambda real: real() + 1),
            (socket, "gethostname", "socket.gethostname", lambda _: OTHER_NAME),
            (platform, "node", "platform.node", lambda _: OTHER_NAME),
        ]
    )


def _files() -> list[str]:
    files = [getattr(module, "__file__", None) or "" for module in swapped.of_layers()]
    return [file for file in files if file.endswith(".py")]


@functools.lru_cache(4096)
def _calls_hash(file: str) -> bool:
    return any(_HASH.search(line) for line in linecache.getlines(file))


def _hash(real: Callable[[Any], int], value: Any) -> Any:
    return real(value) ^ OTHER_HASH if _is_salted() and _holds_text(value) else swapped.AS_EVER


def _is_salted() -> bool:
    return os.environ.get("PYTHONHASHSEED", "random") == "random"


def _holds_text(value: Any) -> bool:
    """Whether a hash is salted: of text, and of what holds text."""
    if isinstance(value, (tuple, frozenset)):
        return any(map(_holds_text, value))
    return isinstance(value, (str, bytes))
