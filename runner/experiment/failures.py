"""Turns an exception into a `Failure` (kind, message, truncated traceback), or re-raises exit signals."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from runner.arrays.checkpoint import CheckpointError
from runner.errors import UserError, last_words
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
    message = " ".join(last_words(error).split())
    return Failure(
        kind=_certain_kind(error) or kind or FailureKind.other,
        type=type(error).__name__,
        message=message[:2000],
        traceback="\n".join(lines),
    )


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
