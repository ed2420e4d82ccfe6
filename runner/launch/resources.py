"""Exclusive CPU cores and GPUs for the processes of one user on one machine."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from runner.timing import machine
from runner.timing.turns import LAST_PAUSE_S, SILENT_S, default_folder, open_lock, taken

PID_CHARACTERS = 20

_KEPT: list[IO[Any]] = []  # for the life of the process


def keep_to_cores(number: int, folder: Path | None = None) -> None:
    """Pins this process, for life, to cores that no other process of ours holds; does not pin it if too few are free.

    Call it before JAX starts its threads: existing threads keep their affinity.
    """
    num_before = machine.cores_to_share()
    if _KEPT or number >= num_before or not hasattr(os, "sched_setaffinity"):
        return
    leased = {core: _lease(f"core-{core}", folder) for core in sorted(os.sched_getaffinity(0))}
    mine = [core for core, file in leased.items() if file is not None][:number]
    for core, file in leased.items():
        if file is not None and (core not in mine or len(mine) < number):
            file.close()
    if len(mine) == number:
        _KEPT.extend(file for core, file in leased.items() if core in mine and file is not None)
        os.sched_setaffinity(0, mine)


@contextlib.contextmanager
def gpu(
    folder: Path | None = None,
    *,
    give_up: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[str | None]:
    """Acquires an NVIDIA GPU that no other process of ours holds, and makes it the only one visible to CUDA.

    Of those that the engine lets this process see, or of all; waits until one is free. None where there are none.

    Args:
      folder: Where the locks are.
      give_up: Polled while waiting; True continues without one.
      say: Takes the line that says what is waited for.
    """
    names, noticed = gpus(), time.monotonic() + SILENT_S
    while names and not give_up():
        for name in names:
            if (file := _lease(_lock_name(name), folder)) is not None:
                with file:
                    file.truncate(0)
                    file.write(str(os.getpid()).encode())
                    os.environ[VISIBLE] = name
                    yield name
                return
        if time.monotonic() > noticed:
            noticed = math.inf
            say(f"waiting for a GPU: other processes of yours hold {', '.join(_held(name, folder) for name in names)}")
        time.sleep(LAST_PAUSE_S)
    yield None


VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus(there: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """The GPUs that CUDA would see here, as its variable names them; no process of theirs is started to ask."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(index) for index, _ in enumerate(there.glob("*"))]


def _lock_name(gpu: str) -> str:
    return f"GPU-{gpu.replace('/', '-')}"


def _held(gpu: str, folder: Path | None) -> str:
    """A GPU, and which process holds it."""
    with open_lock(folder or default_folder(), _lock_name(gpu)) as file:
        file.seek(0)
        pid = file.read(PID_CHARACTERS).decode(errors="replace")
    return f"{gpu} (pid {pid})" if pid.isdigit() else gpu


def _lease(name: str, folder: Path | None) -> IO[Any] | None:
    """An open file whose lock this process holds; None if another one holds it."""
    file = open_lock(folder or default_folder(), name)  # the lock lives as long as it is open
    if taken(file, fcntl.LOCK_EX, 0.0, lambda: False):
        return file
    file.close()
    return None
