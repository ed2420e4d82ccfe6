"""Loads what plans and executes runs: most of the time of a short sweep."""

from __future__ import annotations

import contextlib
import functools
import gc
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from runner.sweep.writing import writers
from runner.tracking import preloading


@functools.cache
def load() -> None:
    """Imports it, JAX and Flax among it.

    The garbage collector rests meanwhile and never looks at these modules again: they have 300,000 objects, and nothing
    to collect.
    """
    gc.disable()
    try:
        with _uninterrupted():
            import runner.sweep.execute
            import runner.tracking.pool  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def preload_writers(num_runs: int, tracking: Mapping[str, Any]) -> None:
    """Lets a large sweep's writers import what they need while this process plans.

    Args:
      num_runs: How many runs the sweep has.
      tracking: Its settings of `tracking`, as composed: the processes import W&B too, if it is used.
    """
    if num_runs >= writers.MIN_SENT_RUNS:
        writers.preload(preloading.PRELOADED if preloading.uses_wandb(tracking) else ())


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Lets a Ctrl-C wait until the block is over: a half imported module in C may end the process with a crash."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)
