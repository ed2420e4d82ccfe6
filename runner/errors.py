"""User errors, each with a message that says how to fix it.

One base class, caught once at the top level (`runner.cli`): the message is printed, and the process exits with the
class's exit code. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
import dis
import functools
import os
import re
import shlex
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType
from typing import IO, Any

# Prefix of a user error on stderr.
USER_ERROR_PREFIX = "error: "


class UserError(Exception):
    """The user's request can't be carried out; nothing was run.

    Args:
      what: The subject, the value received and what was expected, as one sentence without the full stop.
      suggestion: What to type instead, if known.
    """

    exit_code = 2

    def __init__(self, what: str, suggestion: str | None = None) -> None:
        self.what = what
        self.suggestion = suggestion
        super().__init__(what, suggestion)

    def __str__(self) -> str:
        return f"{self.what}." + (f"\n  Try: {self.suggestion}" if self.suggestion else "")


class ConfigError(UserError):
    """An invalid config value.

    Args:
      key: The config key as typed on the command line, e.g. `timing.rounds`.
      got: The value received.
      reason: Why it is invalid.
      suggestion: The override to type instead.
    """

    def __init__(self, key: str, got: object, reason: str, suggestion: str | None = None) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{key}={literal(got)}: {reason}", suggestion)


class LayerError(UserError):
    """A layer that can't be imported, built, or called on the input."""


class MissingArgumentsError(LayerError):
    """A layer or host whose constructor needs more than it gets.

    Args:
      what: As in `UserError`.
      keys: Config keys of what is missing.
      suggestion: Values for them that were tried.
    """

    def __init__(self, what: str, keys: Sequence[str], suggestion: str | None = None) -> None:
        self.keys = tuple(keys)
        super().__init__(what, suggestion)


class LayerFaultError(LayerError):
    """A layer or host that can't work in Linen, whatever the input: a fail of the check `complete`."""


class DeviceError(UserError):
    """A device that is not available."""


class StorageError(UserError):
    """A folder or file that can't be read or written."""


class ServerError(UserError):
    """A server that is unreachable or rejects the login; unsent data stays in place."""

    exit_code = 1


class ManyErrors(UserError):
    """All the errors of one sweep, reported together.

    Args:
      errors: Where each error is (the overrides) and what it is.
      num_configs: How many configs the sweep has.
    """

    # An error in one axis recurs in every config that has it: each reason is reported once, up to a maximum.
    MAX_REASONS = 5

    def __init__(self, errors: Sequence[tuple[str, UserError]], num_configs: int) -> None:
        self.reasons: dict[str, list[str]] = {}
        for where, error in errors:
            self.reasons.setdefault(str(error), []).append(where)
        super().__init__(f"{len(errors)} of {num_configs} configs of this sweep are invalid")

    def __str__(self) -> str:
        lines = [f"{self.what}; nothing was run."]
        for reason, places in list(self.reasons.items())[: self.MAX_REASONS]:
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            lines.append(f"{reason}\n  In: {places[0]}{more}")
        if len(self.reasons) > self.MAX_REASONS:
            lines.append(f"and {len(self.reasons) - self.MAX_REASONS} more reasons")
        return "\n".join(lines)


def one_or_many(errors: Sequence[tuple[str, UserError]], num_configs: int) -> UserError:
    """Returns a single config's error unchanged, and a sweep's errors as one `ManyErrors`."""
    return errors[0][1] if num_configs == 1 else ManyErrors(errors, num_configs)


def literal(value: object) -> str:
    """`value` as Hydra's command line spells it: `true`, `null`, `[4,8]`, plain text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(literal(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{literal(item)}" for key, item in value.items()) + "}"
    return str(value)


def typed(key: str, value: str) -> str:
    """`key=value` as a shell takes it: in quotes if the shell would read more into it."""
    word = f"{key}={value}"
    if not re.search(r"[\s{}\[\]*?()<>&|;$`!#\\'\"]", word):
        return word
    return f'"{word}"' if "'" in word and not re.search(r'[$`!\\"]', word) else shlex.quote(word)


def quoted(text: str) -> str:
    """`text` as a quoted value of Hydra's grammar."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"


def visible(text: str) -> str:
    """`text` with what a terminal would obey (escapes, carriage returns, changes of direction) spelled out."""
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


# Control characters but for line feed and tab, and Unicode's marks that reorder text.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """The known name most likely meant, or None if none is close: of `difflib`'s ratio at least `cutoff`."""
    names = list(known)
    swapped = [one for one in names if one != name and sorted(one) == sorted(name)]  # adma: adam, and not adamax
    matches = swapped or difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return matches[0] if matches else None


def listed(items: Sequence[str], most: int = 3) -> str:
    """The first `most` of `items`, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


# What to do about user code that exits.
NO_EXIT = "raise an error there, and put what is for the command line under if __name__ == '__main__'"


@contextlib.contextmanager
def no_exit() -> Iterator[None]:
    """Turns what user code raises to exit, is no `Exception`, or has no text, into an error like any other.

    Raises:
      LayerError: The code inside exits (`sys.exit`, argparse, `raise KeyboardInterrupt`), raises another
        `BaseException`, or one whose `__str__` raises; the exit of a signal handler passes.
    """
    try:
        with _no_hard_exit():
            yield
    except (SystemExit, KeyboardInterrupt) as error:
        if is_of_signal(error):
            raise
        raise LayerError(
            f"{_place(error)} exits, and only the command line may: {exit_words(error)}", NO_EXIT
        ) from error
    except Exception as error:
        if (raised := _without_text(error)) is None:
            raise
        what = f"{_place(error)} raises {type(error).__name__}, whose text can't be read: its __str__ raises {raised}"
        raise LayerError(what) from None
    except BaseException as error:
        if is_of_signal(error):
            raise
        what = f"{_place(error)} raises {type(error).__name__}, which is no Exception, so that no caller expects it"
        raise LayerError(what, "raise a ValueError there, or another subclass of Exception") from None


def _without_text(error: BaseException) -> str | None:
    """What `str` of an error raises, by its name; None where it gives a text."""
    try:
        str(error)
    except Exception as raised:  # noqa: BLE001 - whatever the user's class raises
        return type(raised).__name__
    return None


def text_of(error: BaseException) -> str:
    """The text of an error; a sentence in its place where `__str__` raises."""
    raised = _without_text(error)
    return str(error) if raised is None else f"its text can't be read, as its __str__ raises {raised}"


@contextlib.contextmanager
def _no_hard_exit() -> Iterator[None]:
    """Makes `os._exit` of this process raise SystemExit inside: it would end a sweep without a word, and with 0."""
    _InUserCode.install()
    with _InUserCode.lock:
        _InUserCode.depth += 1
    try:
        yield
    finally:
        with _InUserCode.lock:
            _InUserCode.depth -= 1


class _InUserCode:
    """How deep this process is in user code, over all its threads; `os._exit` is replaced once, and never put back."""

    lock = threading.Lock()
    depth = 0
    pid: int | None = None

    @classmethod
    def install(cls) -> None:
        if cls.pid == os.getpid():
            return
        cls.pid, end = os.getpid(), getattr(os._exit, "__wrapped__", os._exit)

        @functools.wraps(end)
        def exit_or_raise(status: int) -> None:
            # A process forked from this one ends as it always has.
            if cls.depth and os.getpid() == cls.pid:
                raise SystemExit(status)
            end(status)

        os._exit = exit_or_raise  # type: ignore[assignment]


def is_of_signal(error: BaseException) -> bool:
    """Whether a signal handler raised this exit, and not a line of somebody's code."""
    frames = list(traceback.walk_tb(error.__traceback__))
    handlers = signal_handlers()
    if any(frame.f_code in handlers for frame, _ in frames):
        return True
    if isinstance(error, SystemExit) or error.__traceback__ is None:
        return False
    # Python's own handler for Ctrl-C has no frame: the exception appears between two instructions, at no `raise`.
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] != "RAISE_VARARGS"


def end_if_meant(error: Exception) -> None:
    """Re-raises the exit of a signal handler: raised during a host callback, it surfaces as an XLA error.

    Raises:
      SystemExit: Raised by submitit's handler when Slurm preempts a job.
      KeyboardInterrupt: Raised by a second Ctrl-C.
    """
    word, _, text = last_words(error).partition(":")
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


def last_words(error: BaseException) -> str:
    """The error's message, or its last line if it contains a traceback (a host callback raised)."""
    text = str(error).strip()
    return text.splitlines()[-1] if "Traceback (most recent call last)" in text else text


def signal_handlers() -> set[CodeType]:
    """The code of this process's signal handlers."""
    handlers: list[Any] = [signal.getsignal(number) for number in signal.valid_signals()]
    return {handler.__code__ for handler in handlers if hasattr(handler, "__code__")}


def exit_words(error: BaseException) -> str:
    """`SystemExit: 2`, as Python would print the exception."""
    return "".join(traceback.format_exception_only(error)).strip()


def _place(error: BaseException) -> str:
    """The file and line that exits: the last one outside argparse, this file, and wandb's own `sys.exit`."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.endswith(("argparse.py", "wandb/sdk/lib/exit_hooks.py")) and frame.filename != __file__
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "the layer's code"


def discard(stream: IO[str]) -> None:
    """Lets nothing more be written to a closed pipe, not even by the flush at exit, which would print a traceback."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
