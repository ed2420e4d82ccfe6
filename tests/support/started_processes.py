"""Processes that a test starts, and that never outlive it."""

from __future__ import annotations

import contextlib
import subprocess
from typing import AnyStr

_STARTED: list[subprocess.Popen] = []


class Started(subprocess.Popen[AnyStr]):
    """A process that is killed where its `with` is left by an error, and at the end of its test at the latest."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        _STARTED.append(self)

    def __exit__(self, kind, *error) -> None:
        if kind is not None:  # Popen waits for it without a bound
            self.kill()
        super().__exit__(kind, *error)


def end_started() -> None:
    """Kills what is still there, and closes its pipes."""
    while _STARTED:
        process = _STARTED.pop()
        process.kill()
        with contextlib.suppress(BrokenPipeError), process:
            pass
