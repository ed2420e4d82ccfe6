"""Another process, which runs some code while a test goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from started_processes import Started

HEAD = """
import os, sys
from pathlib import Path
from runner.launch import resources
from runner.timing import machine, turns
folder = Path(sys.argv[1])
"""


@contextlib.contextmanager
def beside(code: str, folder: Path, **environment: str) -> Iterator[Started[str]]:
    """A process that runs `code`, and goes on at a line."""
    folder.mkdir(exist_ok=True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", HEAD + code, str(folder)]
    with Started(command, env=os.environ | environment, **pipes) as process:
        yield process
        with contextlib.suppress(BrokenPipeError):
            process.communicate("\n" * 3)


def said(process: Started[str]) -> str:
    return process.stdout.readline().rstrip("\n")


def go_on(process: Started[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()
