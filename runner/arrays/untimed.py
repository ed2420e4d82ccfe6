"""What is compiled and never timed is kept for the next process: the eager comparison, the checks' own programs.

JAX decides once a process whether it keeps programs, and then for all threads. Programs whose compilation is timed must
be compiled each time, so only a thread that says that it is not timed sees the cache; any other one compiles just as
without it. JAX has no public way to do this: where its internals are not as expected, nothing is kept.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax._src import compilation_cache, lru_cache


class _Thread(threading.local):
    """Whether what this thread compiles is not timed."""

    def __init__(self) -> None:
        self.untimed = False


_THREAD = _Thread()


@dataclass
class _Kept:
    """Where sections keep what they compile, and whether JAX looks there."""

    cache: Any = None
    replaced: bool = False


_KEPT = _Kept()


@contextlib.contextmanager
def section() -> Iterator[None]:
    """What this thread compiles inside is not timed: it may come from the folder of `keep_in`, and is kept there."""
    before, _THREAD.untimed = _THREAD.untimed, True
    try:
        yield
    finally:
        _THREAD.untimed = before


def keep_nothing() -> None:
    """Sections compile as other threads do."""
    _KEPT.cache = None


def keep_in(folder: Path, max_bytes: int) -> bool:
    """Keeps what sections compile; returns whether it can. For entry points only.

    Args:
      folder: An existing folder. What lies there is run, so other users must not have write access.
      max_bytes: How much is kept; what was not used for longest is removed.
    """
    whole = getattr(compilation_cache, "_get_cache", None)
    if whole is None or list(inspect.signature(whole).parameters) != ["backend"]:
        return False
    try:
        _KEPT.cache = lru_cache.LRUCache(str(folder), max_size=max_bytes)
    except (OSError, RuntimeError, TypeError):  # TypeError: another version of JAX
        return False
    if not _KEPT.replaced:
        _KEPT.replaced = True
        compilation_cache._get_cache = functools.partial(_of_thread, whole)
    # With the default threshold of 1 s, operations of the eager comparison are never kept.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return True


def _of_thread(whole: Any, backend: Any) -> Any:
    return _KEPT.cache if _THREAD.untimed and _KEPT.cache is not None else whole(backend)
