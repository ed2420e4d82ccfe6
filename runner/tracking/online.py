"""W&B runs to a server while the sweep goes on: a process beside it runs `bridge-runner sync SWEEP --watch`.

The runs are files first, so a server that is dead, slow or dies costs nothing but what is not sent. The process stands
still while a measurement runs, and at the sweep's end it gets no more time than its server is worth.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.errors import USER_ERROR_PREFIX
from runner.records.record import Head, Record
from runner.tracking.tracker import Follow, Tracking

# At the sweep's end the process has twice the patience, and so much more for each run that arrives: a server that takes
# fewer is not waited for.
PACE_S = 0.25

# Until the server's first answer, which has a limit of its own, the process loads packages: seconds on a busy machine.
START_S = 10.0

POLL_S = 0.02


class OnlineTracking:
    """Makes runs as `files` does, and sends them.

    Args:
      files: Makes the files.
      folder: The sweep's folder.
      warn: Takes one sentence, once for the whole sweep.
      patience_s: Seconds at the sweep's end that the server may be silent.
      at_once: Whether the process may start now, or only when nothing is measured any more.

    Attributes:
      sender: The process, once it has started.
    """

    def __init__(
        self, files: Tracking, folder: Path, warn: Callable[[str], None], *, patience_s: float, at_once: bool
    ) -> None:
        self._files = files
        self._folder = folder
        self._warn = warn
        self._patience_s = patience_s
        self._gave_up = False
        self._live: Sender | None = None
        self.sender = Sender(folder, "--watch") if at_once else None

    def warm(self) -> None:
        """Loads what the first run would load."""
        self._files.warm()

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Where a run can be followed while it trains; a process of its own sends what is told of it."""
        follow = self._files.follow(head, run_dir)
        return None if follow is None else _OnlineFollow(self, follow)

    def show(self, folder: Path) -> None:
        """Sends the run whose files grow in `folder`, until `hide` or the next submit."""
        self._live = self._live or Sender(folder, "--live")
        self._live.resume()

    def hide(self) -> None:
        """Stops sending what grows."""
        if self._live is not None:
            self._live.pause()

    def submit(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> None:
        """Queues one run; what was made before is sent meanwhile."""
        if self._live is not None:
            # It is sent again, as a whole.
            self._live.kill()
            self._live = None
        self._files.submit(record, output, run_dir)
        if self.sender is not None:
            self.sender.resume()
            self._notice(self.sender)

    def wait(self) -> Sequence[tuple[str, float]]:
        """Waits for the files of all that was queued, and stops sending; run id and seconds of each."""
        costs = self._files.wait()
        if self.sender is not None:
            self.sender.pause()
        return costs

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes the run of the sweep."""
        self._files.log_sweep(name, rows)

    def close(self) -> None:
        """Ends what makes the files, and sends the rest, as long as the server takes it."""
        self._files.close()
        if self._live is not None:
            self._live.kill()
        sender = self.sender or Sender(self._folder, "--watch")
        sender.resume()
        sender.finish(self._patience_s)
        self._notice(sender)

    def _notice(self, sender: Sender) -> None:
        """Says once that the process has ended without having sent all."""
        if sender.failed and not self._gave_up:
            self._gave_up = True
            rest = f"runs stay offline; bridge-runner sync {self._folder} sends what is missing"
            self._warn(f"tracking.mode=online: {sender.reason}. This sweep's W&B {rest}")


class _OnlineFollow:
    """A run that is followed on a server; see `tracking.Follow`."""

    def __init__(self, online: OnlineTracking, follow: Follow) -> None:
        self._online = online
        self._follow = follow

    @property
    def folder(self) -> Path | None:
        """The run's files."""
        return self._follow.folder

    def tell(self, first_step: int, losses: Sequence[float]) -> None:
        """Adds the losses to the run's files, which are being sent."""
        self._follow.tell(first_step, losses)
        if self.folder is not None:
            self._online.show(self.folder)

    def end(self) -> None:
        """Stops sending while the run is timed."""
        self._follow.end()
        self._online.hide()


class Sender:
    """The process that sends W&B runs.

    Args:
      folder: The sweep, or the files of one run.
      how: `--watch` sends a sweep's runs as they end, `--live` one run as it grows.
    """

    def __init__(self, folder: Path, how: str) -> None:
        package = Path(__file__).resolve().parents[2]
        # -P: a folder called wandb in the working directory would be taken for the package.
        words = [sys.executable, "-P", "-m", "runner", "sync", str(folder.resolve()), how]
        paths = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
        # wandb-core of this process would be waited for, and would be ended.
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        # A group of its own, so that Ctrl-C does not reach it, and no session of its own: if this process is killed
        # while the group stands still, the kernel ends it.
        self._process = subprocess.Popen(
            [*words, "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
            process_group=0,
        )
        self._said = ""
        self._num_sent = 0
        self._first_heard_at: float | None = None
        self._heard_at: float = 0.0
        self._paused_at: float | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def failed(self) -> bool:
        """Whether it ended without having sent all."""
        return self._process.poll() not in (None, 0)

    @property
    def reason(self) -> str:
        """Why it ended without having sent all."""
        slow = self._process.poll() == -signal.SIGKILL
        return "the W&B server is too slow" if slow else self._said.removeprefix(USER_ERROR_PREFIX).rstrip(".")

    def pause(self) -> None:
        """Makes it stand still, with the processes that it started."""
        if self._paused_at is None and self._process.poll() is None:
            self._paused_at = time.monotonic()
            self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        if self._paused_at is not None:
            # What is stopped is not silent.
            self._heard_at += time.monotonic() - self._paused_at
            self._paused_at = None
            self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it and the processes that it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def finish(self, patience_s: float) -> None:
        """Waits for its end as long as the server is worth it, then ends it."""
        began, num_before = time.monotonic(), self._num_sent
        while self._process.poll() is None:
            now = time.monotonic()
            if self._first_heard_at is None:
                late = now > began + max(START_S, patience_s)
            else:
                worth_s = 2 * patience_s + PACE_S * (self._num_sent - num_before)
                late = now > self._heard_at + patience_s or now > max(began, self._first_heard_at) + worth_s
            if late:
                self._signal(signal.SIGKILL)
            time.sleep(POLL_S)
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._heard_at = time.monotonic()
                self._first_heard_at = self._first_heard_at or self._heard_at
                self._num_sent += line.startswith("sent ")
                # A mistake, a refused run or the end of a traceback, but not what it says of itself.
                if not line.startswith((".", "sent ", "sending ")) and "W&B runs are at" not in line:
                    self._said = line.strip()

    def _signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and those that it started: wandb-core, which is in a session of its own."""
        pids = [self.pid, *children(self.pid)]
        # Stopped from the top, so that no new one comes; woken and ended from the bottom, while the parent shows them.
        for pid in pids if number == signal.SIGSTOP else reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def children(pid: int) -> list[int]:
    """Processes that `pid` started; none where the system has no /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "7 (name) S 1 …": a name may hold anything, blanks and brackets too.
            if path.read_text(errors="replace").rpartition(")")[2].split()[1] == str(pid):
                found.append(int(path.parent.name))
    return found
