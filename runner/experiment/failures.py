"""Why a run failed: its kind, its last words and a traceback that fits a record; and what ends the process instead."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from runner.arrays.checkpoint import CheckpointError
from runner.errors import UserError
from runner.records.record import Check, Failure, FailureKind

MAX_TRACEBACK_LINES = 60


class WorkerDied(Exception):
    """The process that was at a run ended with it: a crash in native code, a kill, or no memory left."""


class CheckFailed(Exception):
    """A strict check failed.

    Args:
      check: The one that did.
      asked: All that had been asked till then.
    """

    def __init__(self, check: Check, asked: Sequence[Check] = ()) -> None:
        self.check = check
        self.asked = list(asked)
        # Of an output that is not finite the failure's kind already says it.
        super().__init__(check.detail if check.name == "finite" else f"{check.name}: {check.detail}")


class NotCompiled(Exception):
    """A program did not compile, for the error that caused this one.

    Args:
      asked: What the checks had said till then.
    """

    def __init__(self, asked: Sequence[Check]) -> None:
        self.asked = list(asked)
        super().__init__()


def describe_failure(error: BaseException, *, kind: FailureKind | None = None) -> Failure:
    """`error` with its kind (found out where None) and traceback."""
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
    """Ends the process where a signal's handler meant to: raised while a callback ran on the host, it is XLA's error.

    Raises:
      SystemExit: So does submitit's handler when Slurm preempts a job.
      KeyboardInterrupt: A second Ctrl-C.
    """
    word, _, text = _last_words(error).partition(":")
    if word == "SystemExit":
        raise SystemExit(text.strip()) from error
    if word == "KeyboardInterrupt":
        raise KeyboardInterrupt from error


def _last_words(error: BaseException) -> str:
    """The error's message; of one that holds a traceback (a callback on the host raised), its last line."""
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
