"""Exclusive access while timing: file locks in the machine's temporary folder, shared by one user's processes.

A lock is released when its process ends, however it ends, and has no effect on other machines. Each user has a separate
folder: other users' processes are not ours to wait for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")

# Longer than nearly every measurement; after that, timing proceeds anyway and is flagged as contended.
MAX_WAIT_S = 300.0
FIRST_PAUSE_S = 0.0005
LAST_PAUSE_S = 0.05

FOLDER = "BRIDGE_RUNNER_LOCKS"


def default_folder() -> Path:
    """This user's lock folder on this machine; an environment variable overrides it where /tmp is private per job."""
    return Path(os.environ.get(FOLDER) or Path(tempfile.gettempdir()) / f"bridge-runner-{os.getuid()}")


class Turns:
    """Lets one process measure while no other is working.

    A readers-writer lock: workers share it, a measurement holds it exclusively. A gate in front admits one process at a
    time, so that new workers can't starve a waiting measurement.

    Args:
      folder: Folder of the lock files.
      give_up: Polled while waiting; True ends the wait, and the measurement proceeds anyway.
    """

    def __init__(self, folder: Path | None = None, *, give_up: Callable[[], bool] = lambda: False) -> None:
        self._folder = folder or default_folder()
        self._give_up = give_up

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Keeps other processes from measuring, also during `measured`, which may be called inside."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._folder / "gate", "ab") as self._gate, open(self._folder / "work", "ab") as self._work:
            self._pass_gate(fcntl.LOCK_SH)
            yield

    def measured(self, act: Callable[[], T], *, wait: bool) -> tuple[T, bool]:
        """Runs `act`; returns its result and whether another process was working at the same time.

        Args:
          act: The measurement.
          wait: Whether to wait until no other process is working; otherwise only checks whether one is.
        """
        if wait:
            fcntl.flock(self._work, fcntl.LOCK_UN)
            alone = self._pass_gate(fcntl.LOCK_EX)
            result = act()
            # Converting a lock releases it first: another process may start measuring in between.
            taken(self._work, fcntl.LOCK_SH, time.monotonic() + MAX_WAIT_S, self._give_up)
            return result, not alone
        before = self._others_work()
        result = act()
        return result, before or self._others_work()

    def _pass_gate(self, kind: int) -> bool:
        deadline = time.monotonic() + MAX_WAIT_S
        if not taken(self._gate, fcntl.LOCK_EX, deadline, self._give_up):
            return False
        try:
            return taken(self._work, kind, deadline, self._give_up)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _others_work(self) -> bool:
        alone = taken(self._work, fcntl.LOCK_EX, 0.0, self._give_up)
        fcntl.flock(self._work, fcntl.LOCK_SH)
        return not alone


def taken(file: IO[Any], kind: int, deadline: float, give_up: Callable[[], bool]) -> bool:
    """Whether the lock was acquired before `deadline`."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline or give_up():
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
        else:
            return True
