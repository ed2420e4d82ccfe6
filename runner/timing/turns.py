"""Turns at measuring: locks of files in the machine's temporary folder, which processes of one user share.

They end with the process that holds them, however it ends, and say nothing to other machines. A folder of its own a
user: others' processes are not ours to wait for.
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

# Longer than nearly every measurement of another process; then a time is taken beside it and says so.
MAX_WAIT_S = 300.0
FIRST_PAUSE_S = 0.0005
LAST_PAUSE_S = 0.05

FOLDER = "BRIDGE_RUNNER_LOCKS"


def default_folder() -> Path:
    """Where the locks of this user on this machine are; a variable names another place where /tmp is each job's own."""
    return Path(os.environ.get(FOLDER) or Path(tempfile.gettempdir()) / f"bridge-runner-{os.getuid()}")


class Turns:
    """Lets one process measure while no other works.

    Who works shares a lock, who measures has it alone. A gate before it is passed one by one, so that who waits to
    measure is not overtaken for ever by others who begin to work.

    Args:
      folder: Where the locks are.
      give_up: Asked while waiting; True ends it, and the time is taken all the same.
    """

    def __init__(self, folder: Path | None = None, *, give_up: Callable[[], bool] = lambda: False) -> None:
        self._folder = folder or default_folder()
        self._give_up = give_up

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Holds the others from measuring; it is held through `measured`, which may be called inside."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._folder / "gate", "ab") as self._gate, open(self._folder / "work", "ab") as self._work:
            self._pass_gate(fcntl.LOCK_SH)
            yield

    def measured(self, act: Callable[[], T], *, wait: bool) -> tuple[T, bool]:
        """The result of `act`, and whether another process worked beside it.

        Args:
          act: What is measured.
          wait: Whether to wait until nobody else works; otherwise it is only looked whether somebody does.
        """
        if wait:
            fcntl.flock(self._work, fcntl.LOCK_UN)
            alone = self._pass_gate(fcntl.LOCK_EX)
            result = act()
            # To change a lock is to let it go first: another one may begin to measure in between.
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
    """Whether the lock could be had before `deadline`."""
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
