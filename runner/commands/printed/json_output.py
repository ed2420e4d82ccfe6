"""JSON and Markdown for scripts: alone on stdout, whatever user code prints."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

_waiting: list[str] | None = None


def print_json(data: Any, *, indent: int | None = None) -> None:
    """Prints `data` as JSON on stdout, inside `only_json` when that ends."""
    print_text(json.dumps(data, indent=indent) + "\n")


def print_text(text: str) -> None:
    """Prints `text`, which is JSON or Markdown already, as `print_json` does."""
    if _waiting is None:
        print(text, end="")
    else:
        _waiting.append(text)


@contextlib.contextmanager
def only_json() -> Iterator[None]:
    """Sends to stderr what is printed inside, by this process and those that it starts; then prints what waits."""
    global _waiting
    waiting: list[str] = []
    _waiting = waiting
    try:
        with _stdout_to_stderr():
            yield
    finally:
        _waiting = None
    print("".join(waiting), end="")


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
