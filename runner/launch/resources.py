"""What processes of one user on one machine share: the quiet in which a time is taken, cores, and cards.

Locks of files in the machine's temporary folder. They end with the process that holds them, however it ends, and say
nothing to other machines. A folder of its own a user: others' processes are not ours to wait for.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from runner.timing import machine

T = TypeVar("T")

# Longer than nearly every measurement of another process; then a time is taken beside it and says so.
MAX_WAIT_S = 300.0
FIRST_PAUSE_S = 0.0005
LAST_PAUSE_S = 0.05

FOLDER = "BRIDGE_RUNNER_LOCKS"

_KEPT: list[IO[Any]] = []  # for the life of the process


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
            _taken(self._work, fcntl.LOCK_SH, time.monotonic() + MAX_WAIT_S, self._give_up)
            return result, not alone
        before = self._others_work()
        result = act()
        return result, before or self._others_work()

    def _pass_gate(self, kind: int) -> bool:
        deadline = time.monotonic() + MAX_WAIT_S
        if not _taken(self._gate, fcntl.LOCK_EX, deadline, self._give_up):
            return False
        try:
            return _taken(self._work, kind, deadline, self._give_up)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _others_work(self) -> bool:
        alone = _taken(self._work, fcntl.LOCK_EX, 0.0, self._give_up)
        fcntl.flock(self._work, fcntl.LOCK_SH)
        return not alone


def keep_to_cores(number: int, folder: Path | None = None) -> None:
    """Keeps this process, for life, to cores that no other process of ours has; to none where too few are free.

    Call it before JAX starts its threads: those that are there already stay where they are.
    """
    num_before = cores_to_share()
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


@functools.cache
def cores_to_share() -> int:
    """Cores that this process had before it was kept to some: what the load of the machine is compared with."""
    return machine.num_cores()


@contextlib.contextmanager
def card(folder: Path | None = None, *, give_up: Callable[[], bool] = lambda: False) -> Iterator[str | None]:
    """Holds a card of NVIDIA's that no other process of ours has, and lets CUDA see no other one.

    Of those that the engine lets this process see, or of all; waits until one is free. None where there are none.

    Args:
      folder: Where the locks are.
      give_up: Asked while waiting; True goes on without one.
    """
    names = cards()
    while names and not give_up():
        for name in names:
            if (file := _lease(f"card-{name.replace('/', '-')}", folder)) is not None:
                with file:
                    os.environ[VISIBLE] = name
                    yield name
                return
        time.sleep(LAST_PAUSE_S)
    yield None


VISIBLE = "CUDA_VISIBLE_DEVICES"


def cards(there: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """The cards that CUDA would see here, as its variable names them; no process of theirs is started to ask."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(index) for index, _ in enumerate(there.glob("*"))]


def _lease(name: str, folder: Path | None) -> IO[Any] | None:
    """An open file whose lock this process has; None where another one has it."""
    where = folder or default_folder()
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = open(where / name, "ab")  # noqa: SIM115 - the lock lives as long as it is open
    if _taken(file, fcntl.LOCK_EX, 0.0, lambda: False):
        return file
    file.close()
    return None


def _taken(file: IO[Any], kind: int, deadline: float, give_up: Callable[[], bool]) -> bool:
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
