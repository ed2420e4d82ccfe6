"""Turns an exception into a `Failure` (kind, message, truncated traceback), or re-raises exit signals."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence

from runner.arrays.checkpoint import CheckpointError
from runner.errors import UserError, signal_handlers
from runner.records.record import Check, Failure, FailureKind

MAX_TRACEBACK_LINES = 60


class WorkerDied(Exception):
    """The process died while executing a run: a crash in native code, a kill, or out of memory."""


class CheckFailed(Exception):
    """A strict check failed, or a check could not be made.

    Args:
      check: The failed check.
      asked: All checks run up to then.
    """

    def __init__(self, check: Check, asked: Sequence[Check] = ()) -> None:
        self.check = check
        self.asked = list(asked)
        # For a non-finite output, the failure's kind already says so.
        super().__init__(check.detail if check.name == "finite" else f"{check.name}: {check.detail}")


class NotCompiled(Exception):
    """A program did not compile; the cause of this exception is the error.

    Args:
      asked: The results of the checks run up to then.
    """

    def __init__(self, asked: Sequence[Check]) -> None:
        self.asked = list(asked)
        super().__init__()


def describe_failure(error: BaseException, *, kind: FailureKind | None = None) -> Failure:
    """Describes `error` with its kind (inferred if None) and traceback."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    if len(lines) > MAX_TRACEBACK_LINES:
        lines = [*lines[:10], "…", *lines[-(MAX_TRACEBACK_LINES - 11) :]]
    message = " ".join(_last_words(error).split())
    return Failure(
        kind=_certain_kind(error) or kind or FailureKind.other,
        type=type(error).__name__,
        message=message[:2000],
        traceback="\n".join(lines),
    )


def end_if_meant(error: Exception) -> None:
    """Re-raises the exit of a signal handler: raised during a host callback, it surfaces as an XLA error.

    Raises:
      SystemExit: Raised by submitit's handler when Slurm preempts a job.
      KeyboardInterrupt: Raised by a second Ctrl-C.
    """
    word, _, text = _last_words(error).partition(":")
    if word == "SystemExit" and _is_of_handler(str(error)):
        raise SystemExit(text.strip()) from error
    if word == "KeyboardInterrupt":
        raise KeyboardInterrupt from error


def _is_of_handler(text: str) -> bool:
    """Whether a traceback in text goes through a signal handler of this process: user code may exit as well."""
    return any(
        re.search(rf'File "{re.escape(code.co_filename)}", line \d+, in {re.escape(code.co_name)}\n', text)
        for code in signal_handlers()
    )


def _last_words(error: BaseException) -> str:
    """The error's message, or its last line if it contains a traceback (a host callback raised)."""
    text = str(error).strip()
    return text.splitlines()[-1] if "Traceback (most recent call last)" in text else text


def _certain_kind(error: BaseException) -> FailureKind | None:
    if isinstance(error, CheckFailed):
        return FailureKind.non_finite if error.check.name == "finite" else FailureKind.check
    if isinstance(error, WorkerDied):
        return FailureKind.died
    if isinstance(error, CheckpointError):
        return FailureKind.checkpoint
    if isinstance(error, UserError):
        return FailureKind.config
    if isinstance(error, KeyboardInterrupt):
        return FailureKind.interrupted
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return FailureKind.out_of_memory
    return None
