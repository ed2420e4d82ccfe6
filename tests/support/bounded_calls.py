"""Calls of the command line in this process that end in time: what they came to, and whether a user may see that."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.commands import main
from runner.commands.typed import verb

LIMIT_S = 60.0  # of what takes a few seconds on a machine that is busy
GRACE_S = 60.0  # then even code that holds the interpreter is ended, with its stack on stderr

# A run, and the shell's completion, which are no verbs.
RUN, COMPLETE = "", main.COMPLETE
RUN_CODES = frozenset({0, 1, verb.USAGE})


class HangError(BaseException):
    """A call that did not end: no `except Exception` stops it."""


@dataclass(frozen=True)
class Called:
    """What a call came to.

    Attributes:
      code: Its exit code; None if it raised.
      said: Its stdout and stderr.
      raised: The traceback of what it raised, or "".
    """

    code: int | None
    said: str
    raised: str

    def fault(self, codes: frozenset[int]) -> str | None:
        """What no user may see of it, given the documented codes; None if it is well."""
        if self.raised or "Traceback (most recent call last)" in self.said:
            return (self.raised or self.said)[-3000:]
        if self.code not in codes:
            return f"exit code {self.code}: {self.said[-1000:]}"
        if self.code == verb.USAGE and "error: " not in self.said:
            return f"exit code 2 without a reason: {self.said[-1000:]}"
        return None


def codes_of(name: str) -> frozenset[int]:
    """The documented exit codes of a verb, `RUN` or `COMPLETE`, without that of an interruption."""
    if name == RUN:
        return RUN_CODES
    return frozenset({0}) if name == COMPLETE else frozenset({*verb.load(name).exit_codes, verb.USAGE, verb.OK})


def call(words: Sequence[str]) -> Called:
    """Calls the command line, and leaves this process as it was."""
    said = io.StringIO()
    code, raised = None, ""
    with _kept_process(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            with _limited():
                code = main.main(words)
        except BaseException as error:  # whatever it is, it is what the test is about
            if isinstance(error, KeyboardInterrupt):
                raise
            raised = "".join(traceback.format_exception(error))
    return Called(code, said.getvalue(), raised)


def sweep_two_runs(folder: Path, words: Sequence[str]) -> Path:
    """Sweeps two seeds in `folder`, as `outputs/s`; gives the folder."""
    with contextlib.chdir(folder):
        done = call(["-m", "seed=0,1", "sweep=s", *words])
    assert done.code == 0, done
    return folder


@contextlib.contextmanager
def _kept_process() -> Iterator[None]:
    folder, environment, path, argv = os.getcwd(), dict(os.environ), sys.path[:], sys.argv[:]
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:], sys.argv[:] = path, argv


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def end(*_: object) -> None:
        raise HangError(f"no end after {LIMIT_S:.0f} s")

    handler = signal.signal(signal.SIGALRM, end)
    began = time.monotonic()
    left, _ = signal.setitimer(signal.ITIMER_REAL, LIMIT_S)  # pytest-timeout's own
    faulthandler.dump_traceback_later(LIMIT_S + GRACE_S, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left and max(left - (time.monotonic() - began), 1.0))
