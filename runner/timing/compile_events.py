"""What JAX tells of its compilations: how many there were, and which came from its cache."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
CACHE_HIT_EVENT = "/jax/compilation_cache/cache_hits"


def listen() -> None:
    """Starts counting compilations; idempotent."""
    if not _EVENTS.listening:
        _EVENTS.listening = True
        jax.monitoring.register_event_duration_secs_listener(_EVENTS.on_duration)
        jax.monitoring.register_event_listener(_EVENTS.on_event)


class _Events:
    """Counts JAX monitoring events: compilations in total, cache hits by thread."""

    def __init__(self) -> None:
        self.listening = False
        self.num_compiled = 0
        self.hits_by_thread: dict[int, int] = {}

    def on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        del duration_secs
        if event == COMPILE_EVENT:
            self.num_compiled += 1

    def on_event(self, event: str, **_: Any) -> None:
        if event == CACHE_HIT_EVENT:
            thread = threading.get_ident()
            self.hits_by_thread[thread] = self.hits_by_thread.get(thread, 0) + 1


_EVENTS = _Events()


def num_compiled() -> int:
    """How many programs XLA has compiled since `listen`."""
    return _EVENTS.num_compiled


def cache_is_on() -> bool:
    """Whether JAX keeps what it compiles."""
    # Read from JAX, not from our settings: an environment variable can enable the cache too.
    return bool(jax.config.values["jax_enable_compilation_cache"] and jax.config.values["jax_compilation_cache_dir"])


@contextlib.contextmanager
def cache_hits() -> Iterator[Callable[[], int]]:
    """What it gives counts the programs that this thread has taken from JAX's cache since."""
    listen()
    thread = threading.get_ident()
    before = _EVENTS.hits_by_thread.get(thread, 0)
    yield lambda: _EVENTS.hits_by_thread.get(thread, 0) - before
