"""Exclusive access while timing: file locks in the machine's temporary folder, shared by one user's processes.

A lock is released when its process ends, however it ends, and has no effect on other machines. Each user has a separate
folder: other users' processes are not ours to wait for, and what they put there is refused.
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

from runner.errors import StorageError, listed
from runner.records.disk import plain_files

T = TypeVar("T")

# Longer than nearly every measurement; after that, timing proceeds anyway and is flagged as contended.
MAX_WAIT_S = 300.0
FIRST_PAUSE_S = 0.0005
LAST_PAUSE_S = 0.05

# A longer wait is announced, with whom it is for.
SILENT_S = 1.0

FOLDER = "BRIDGE_RUNNER_LOCKS"
ANOTHER_FOLDER = f"{FOLDER}=~/.bridge-runner-locks before the command"


def default_folder() -> Path:
    """This user's lock folder on this machine; an environment variable overrides it where /tmp is private per job."""
    return Path(os.environ.get(FOLDER) or Path(tempfile.gettempdir()) / f"bridge-runner-{os.getuid()}")


def open_lock(folder: Path, name: str) -> IO[Any]:
    """A lock file in the lock folder, open; both are made if missing.

    Raises:
      StorageError: Somebody else made one of them, or it is a link or a FIFO.
    """
    plain_files.private_folder(folder, ANOTHER_FOLDER)
    try:
        return plain_files.append(folder / name, own=True)
    except OSError as error:
        raise StorageError(f"{folder / name}: {error.strerror or error}", ANOTHER_FOLDER) from error


class Turns:
    """Lets one process measure while no other is working.

    A readers-writer lock: workers share it, a measurement holds it exclusively. A gate in front admits one process at a
    time, so that new workers can't starve a waiting measurement. Who works without having waited is a guest, and a
    measurement that had guests is contended.

    Args:
      folder: Folder of the lock files.
      name: What this process works on, for others that wait for it.
      give_up: Polled while waiting; True ends the wait, and the measurement proceeds anyway.
      say: Takes the line that says what is waited for; once for each process or set of them.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        name: str = "",
        give_up: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder = folder or default_folder()
        self._name = name
        self._give_up = give_up
        self._say = say
        self._said: set[str] = set()

    def require(self) -> None:
        """Checks that the locks can be used.

        Raises:
          StorageError: They can't.
        """
        for name in ("gate", "work", "guests"):
            open_lock(self._folder, name).close()

    @contextlib.contextmanager
    def working(self, *, wait: bool = True) -> Iterator[None]:
        """Keeps other processes from measuring, also during `measured`, which may be called inside.

        Args:
          wait: Whether to wait while another process measures; otherwise its measurement is contended.
        """
        with (
            open_lock(self._folder, "gate") as self._gate,
            open_lock(self._folder, "work") as self._work,
            open_lock(self._folder, "guests") as self._guests,
            self._registered(),
        ):
            if not (wait and self._pass_gate(fcntl.LOCK_SH)):
                self._join()
            yield

    def measured(self, act: Callable[[], T], *, wait: bool) -> tuple[T, bool]:
        """Runs `act`; returns its result and whether another process was working at the same time.

        Args:
          act: The measurement.
          wait: Whether to wait until no other process is working; otherwise only checks whether one is.
        """
        if not wait:
            before = self._others_work()
            result = act()
            return result, self._others_work() or before
        fcntl.flock(self._work, fcntl.LOCK_UN)
        alone = self._pass_gate(fcntl.LOCK_EX)
        came = self._last_came()
        alone = not self._has_guests() and alone
        result = act()
        alone = not self._has_guests() and self._last_came() == came and alone
        # Converting a lock releases it first: another process may start measuring in between.
        if not self._waited(self._work, fcntl.LOCK_SH, time.monotonic() + MAX_WAIT_S):
            self._join()
        return result, not alone

    def _pass_gate(self, kind: int) -> bool:
        deadline = time.monotonic() + MAX_WAIT_S
        if not self._waited(self._gate, fcntl.LOCK_EX, deadline):
            return False
        try:
            return self._waited(self._work, kind, deadline)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _waited(self, file: IO[Any], kind: int, deadline: float) -> bool:
        """Whether the lock was acquired before `deadline`; a wait that can be noticed is announced."""
        if taken(file, kind, min(deadline, time.monotonic() + SILENT_S), self._give_up):
            return True
        if self._give_up():
            return False
        whom = listed(self._others()) or "another process"
        if whom not in self._said:
            self._said.add(whom)
            self._say(
                f"waiting at most {MAX_WAIT_S:.0f} s for {whom}, so that neither disturbs the other's times; "
                "timing.turns=false or timing=off does not wait"
            )
        return taken(file, kind, deadline, self._give_up)

    def _join(self) -> None:
        """Works along with others without waiting: as one of the workers, or as the guest of a measurement."""
        if not taken(self._work, fcntl.LOCK_SH, 0.0, self._give_up):
            os.utime(self._guests.fileno())
            taken(self._guests, fcntl.LOCK_SH, time.monotonic() + SILENT_S, lambda: False)

    def _others_work(self) -> bool:
        alone = taken(self._work, fcntl.LOCK_EX, 0.0, self._give_up) and not self._has_guests()
        self._join()
        return not alone

    def _has_guests(self) -> bool:
        """Whether a process other than this one works as a guest; this one then no longer is one."""
        alone = taken(self._guests, fcntl.LOCK_EX, 0.0, lambda: False)
        fcntl.flock(self._guests, fcntl.LOCK_UN)
        return not alone

    def _last_came(self) -> int:
        """When the last guest came."""
        return os.fstat(self._guests.fileno()).st_mtime_ns

    @contextlib.contextmanager
    def _registered(self) -> Iterator[None]:
        """Tells other processes who this one is, until it ends."""
        self._own = self._folder / f"worker-{os.urandom(8).hex()}"
        with open_lock(self._folder, self._own.name) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{self._name} (pid {os.getpid()})".strip().encode())
            try:
                yield
            finally:
                self._own.unlink(missing_ok=True)

    def _others(self) -> list[str]:
        """Who else works here; removes what killed processes have left."""
        found = []
        for path in sorted(self._folder.glob("worker-*")):
            if path == self._own:
                continue
            with contextlib.suppress(OSError, StorageError), plain_files.append(path, own=True) as file:
                if taken(file, fcntl.LOCK_EX, 0.0, lambda: False):
                    path.unlink()
                else:
                    file.seek(0)
                    found.append(file.read().decode(errors="replace"))
        return found


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
