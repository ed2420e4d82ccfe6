"""The entry point: dispatches to the verb, and turns its errors into messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

from runner.commands.printed.json_output import only_json
from runner.commands.typed import verb
from runner.commands.typed.verb import INTERRUPTED, PROGRAM, USAGE, VERBS, Verb
from runner.errors import (
    USER_ERROR_PREFIX,
    StorageError,
    UserError,
    discard,
    exit_words,
    is_of_signal,
    nearest,
    visible,
)
from runner.launch import process

# Hydra's flags that take a value: the word after one is not a verb.
HYDRA_VALUES = {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p"}
HYDRA_FLAGS = {"-m", "--multirun"}

# Called by the `completion` scripts with the words so far, the last of them unfinished.
COMPLETE = "__complete"

# Packages that may end the process.
EXITING = ("argparse", "hydra", "submitit")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
      argv: Words after the program name; defaults to those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    process.quiet_libraries()
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - what is not a user's is raised again
        if process.was_interrupted():  # and a library made another error of it
            return fail("interrupted", INTERRUPTED)
        return _code_of(error)
    except SystemExit as error:
        return _exit_code(error)


def _code_of(error: Exception) -> int:
    """The exit code of an error that a user can do something about, once its sentence is printed; raises any other."""
    if isinstance(error, UserError):
        return fail(str(error), error.exit_code)
    if isinstance(error, BrokenPipeError):
        discard(sys.stdout)  # the reader closed the pipe
        return 0
    if not isinstance(error, OSError) or error.filename is None:
        raise error
    if error.errno == errno.ENAMETOOLONG:
        return fail(f"{str(error.filename)[:80]}…: no file has so long a name.", USAGE)
    return fail(f"{error.filename}: {error.strerror}.", USAGE)


def entry() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):  # a terminal, or a file's name, may be in another encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    process.heed_interrupts()
    try:
        code = main()
    except BaseException as error:
        process.leave(1, error)
        raise
    process.leave(code)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            discard(stream)
    # Else Python's final garbage collection walks all of JAX's objects: 0.7 s of the one second that exiting takes.
    gc.freeze()
    # Another, impatient Ctrl-C during shutdown changes nothing that was done or printed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _exit_code(error: SystemExit) -> int:
    """The exit code of argparse, which has printed a help page, and of launchers; user code has no say in it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    # Once W&B has had a run in this process, every `sys.exit` passes through its hook.
    frame = next((one for one in reversed(frames) if _package(one) != "wandb"), frames[-1])
    if is_of_signal(error) or _package(frame) in EXITING:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    code, line = frame.f_code, frame.f_lineno
    return fail(f"{code.co_filename}:{line} exits, and only the command line may: {exit_words(error)}.", USAGE)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def fail(text: str, code: int) -> int:
    """Prints the reason on stderr and returns `code`."""
    try:
        print(visible(f"{USER_ERROR_PREFIX}{text}"), file=sys.stderr, flush=True)
    except BrokenPipeError:
        discard(sys.stderr)
    return code


def _dispatch(words: Sequence[str]) -> int:
    if words[:1] == [COMPLETE]:
        return _complete(words[1:])
    if words == ["--version"]:
        import importlib.metadata

        print(f"{PROGRAM} {importlib.metadata.version(PROGRAM)}")
        return 0
    if words in (["--help"], ["-h"]):
        words = ["help"]
    found = _find_verb(words)
    if found is not None:
        return _call(*found)
    if words and re.fullmatch(r"[a-z]+", words[0]):
        raise _unknown(words[0])
    from runner.commands.typed.hydra_command import hydra_command

    return hydra_command(words)


def _find_verb(words: Sequence[str]) -> tuple[Verb, list[str]] | None:
    """The verb, and the other words; flags may come first."""
    for index, word in enumerate(words):
        if word in VERBS:
            found = verb.load(word)
            if _are_flags_of(found, words[:index]):
                return found, [*words[:index], *words[index + 1 :]]
        if not words[0].startswith("-"):
            return None
    return None


def _are_flags_of(found: Verb, words: Sequence[str]) -> bool:
    """Whether `words` are flags of the verb, each with its value."""
    counts = found.parser().value_counts()
    if found.takes_overrides:
        counts = counts | dict.fromkeys(HYDRA_VALUES, 1) | dict.fromkeys(HYDRA_FLAGS, 0)
    left = list(words)
    while left:
        flag, equals, _ = left.pop(0).partition("=")
        if flag not in counts:
            return False
        if counts[flag] and not equals:
            if not left:
                return False
            left.pop(0)
    return True


def _call(found: Verb, words: Sequence[str]) -> int:
    typed = found.parse(words)
    try:
        if not getattr(typed, "json", False):
            return found.run(typed)
        with only_json():
            return found.run(typed)
    except StorageError as error:
        from runner.commands.typed import nearest_path

        suggestion = None
        with contextlib.suppress(PermissionError):
            suggestion = nearest_path.suggest(found, typed, error)
        raise type(error)(error.what, suggestion) if suggestion else error from error


def _unknown(word: str) -> UserError:
    from runner.config import schema

    close = nearest(word, [*VERBS, *schema.layer_names()])
    known = f"{word}: no such command; there are {', '.join(VERBS)}, or KEY=VALUE for a run"
    return UserError(known, f"{PROGRAM} {close if close in VERBS else f'layer={close}'}" if close else None)


def _complete(words: Sequence[str]) -> int:
    from runner.commands.typed import completer

    for candidate in completer.complete(words[1:] if words[:1] == ["--"] else words):
        if visible(candidate) == candidate:  # a name that a terminal would obey is not offered
            print(candidate)
    return 0
