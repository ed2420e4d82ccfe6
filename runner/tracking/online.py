"""Uploads W&B runs while the sweep runs: a separate process runs `bridge-runner sync SWEEP --watch`.

Runs are written to files first, so a dead, slow or failing server costs nothing but the upload. The process is
suspended during measurements, and at the sweep's end its time is limited by how responsive the server is.
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

# At the sweep's end the process gets twice the patience, plus this much per uploaded run: slower servers are not
# waited for.
PACE_S = 0.25

# Before the server's first response, which has its own limit, the process imports packages: seconds on a busy machine.
START_S = 10.0

POLL_S = 0.02


class OnlineTracking:
    """Creates runs with `files`, and uploads them.

    Args:
      files: Writes the files.
      folder: The sweep's folder.
      warn: Called with one sentence, at most once per sweep.
      patience_s: Seconds that the server may be silent at the sweep's end.
      at_once: Whether the process may start now, or only once all measurements are done.

    Attributes:
      sender: The upload process, once started.
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
        """Preloads what the first run needs."""
        self._files.warm()

    def follow(self, head: Head, run_dir: Path) -> Follow | None:
        """Lets a run be followed while it trains; a separate process uploads what is reported."""
        follow = self._files.follow(head, run_dir)
        return None if follow is None else _OnlineFollow(self, follow)

    def show(self, folder: Path) -> None:
        """Uploads the run whose files are growing in `folder`, until `hide` or the next `submit`."""
        self._live = self._live or Sender(folder, "--live")
        self._live.resume()

    def hide(self) -> None:
        """Stops the live upload."""
        if self._live is not None:
            self._live.pause()

    def submit(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> None:
        """Queues one run; earlier runs are uploaded meanwhile."""
        if self._live is not None:
            # It is uploaded again, as a whole.
            self._live.kill()
            self._live = None
        self._files.submit(record, output, run_dir)
        if self.sender is not None:
            self.sender.resume()
            self._notice(self.sender)

    def wait(self) -> Sequence[tuple[str, float]]:
        """Waits for the files of all queued runs, and pauses uploading; returns run id and seconds of each."""
        costs = self._files.wait()
        if self.sender is not None:
            self.sender.pause()
        return costs

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Creates the sweep's own run."""
        self._files.log_sweep(name, rows)

    def close(self) -> None:
        """Closes the file writer, and uploads the rest for as long as the server accepts it."""
        self._files.close()
        if self._live is not None:
            self._live.kill()
        sender = self.sender or Sender(self._folder, "--watch")
        sender.resume()
        sender.finish(self._patience_s)
        self._notice(sender)

    def _notice(self, sender: Sender) -> None:
        """Warns once if the process ended before everything was uploaded."""
        if sender.failed and not self._gave_up:
            self._gave_up = True
            rest = f"runs stay offline; bridge-runner sync {self._folder} sends what is missing"
            self._warn(f"tracking.mode=online: {sender.reason}. This sweep's W&B {rest}")


class _OnlineFollow:
    """A run followed live on a server; see `tracker.Follow`."""

    def __init__(self, online: OnlineTracking, follow: Follow) -> None:
        self._online = online
        self._follow = follow

    @property
    def folder(self) -> Path | None:
        """The run's files."""
        return self._follow.folder

    def tell(self, first_step: int, losses: Sequence[float]) -> None:
        """Appends the losses to the run's files, which are being uploaded."""
        self._follow.tell(first_step, losses)
        if self.folder is not None:
            self._online.show(self.folder)

    def end(self) -> None:
        """Stops uploading while the run is timed."""
        self._follow.end()
        self._online.hide()


class Sender:
    """The process that uploads W&B runs.

    Args:
      folder: The sweep, or the files of one run.
      how: `--watch` uploads a sweep's runs as they end, `--live` one run as it grows.
    """

    def __init__(self, folder: Path, how: str) -> None:
        package = Path(__file__).resolve().parents[2]
        # -P: a folder named wandb in the working directory would shadow the package.
        words = [sys.executable, "-P", "-m", "runner", "sync", str(folder.resolve()), how]
        paths = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
        # Otherwise the child would wait for this process's wandb-core, and end it.
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        # A separate process group, so that Ctrl-C does not reach it, but the same session: if this process is killed
        # while the group is stopped, the kernel ends it.
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
        """The process id."""
        return self._process.pid

    @property
    def failed(self) -> bool:
        """Whether it ended before everything was uploaded."""
        return self._process.poll() not in (None, 0)

    @property
    def reason(self) -> str:
        """Why it ended before everything was uploaded."""
        slow = self._process.poll() == -signal.SIGKILL
        return "the W&B server is too slow" if slow else self._said.removeprefix(USER_ERROR_PREFIX).rstrip(".")

    def pause(self) -> None:
        """Suspends it and its child processes."""
        if self._paused_at is None and self._process.poll() is None:
            self._paused_at = time.monotonic()
            self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resumes it."""
        if self._paused_at is not None:
            # Time spent suspended does not count as silence.
            self._heard_at += time.monotonic() - self._paused_at
            self._paused_at = None
            self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kills it and its child processes."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def finish(self, patience_s: float) -> None:
        """Waits for it to end as long as the server keeps responding, then kills it."""
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
                # An error, a rejected run or the end of a traceback, but not progress messages.
                if not line.startswith((".", "sent ", "sending ")) and "W&B runs are at" not in line:
                    self._said = line.strip()

    def _signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and its children: wandb-core runs in a separate session."""
        pids = [self.pid, *children(self.pid)]
        # Stop parents first, so that they spawn no more; resume and kill children first, while the parent lists them.
        for pid in pids if number == signal.SIGSTOP else reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def children(pid: int) -> list[int]:
    """Child processes of `pid`; empty on systems without /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "7 (name) S 1 …": a name may contain anything, even spaces and brackets.
            if path.read_text(errors="replace").rpartition(")")[2].split()[1] == str(pid):
                found.append(int(path.parent.name))
    return found
