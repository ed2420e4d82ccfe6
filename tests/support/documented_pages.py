"""Runs what a page of the documentation shows: its commands and code, in order, in one folder.

    ```bash     each line runs; `# exits 1` behind it is the exit code that it ends with
    ```python   runs; with a first line `# nets.py` it is written to that file
    ```yaml     with a first line `# my_conf/layer/gated.yaml` it is written to that file
    ```text     lines that the command or code before it prints; `…` stands for others, and a measured number for any

Other fences (`console`, none) are shown and not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml|toml))\n")
RUN = ("bash", "python")

# What differs from run to run: times, their factors, and dates.
MEASURED = re.compile(r"~?\d[\d.,]*( ?(?:ns|µs|ms|s|×)\b|(?= ×))")


@dataclass(frozen=True)
class Fence:
    """A block of code: what follows its three ticks, and what is in it."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that it is written to."""
        named = FILE.match(self.text) if self.language in ("python", "yaml", "toml") else None
        return named[1] if named else None


def fences(page: str) -> list[Fence]:
    """The blocks of code of a page, in order."""
    return [Fence(*found) for found in FENCE.findall(page)]


def runs_something(page: str) -> bool:
    """Whether a page has a command, or code that is no file."""
    return any(fence.language in RUN and not fence.file for fence in fences(page))


def run_page(page: str, folder: Path) -> None:
    """Runs a page in `folder`."""
    run(fences(page), folder)


def run(blocks: Iterable[Fence], folder: Path) -> None:
    """Runs blocks of code in `folder`, in order.

    Raises:
      AssertionError: A command ends otherwise than the page states, or prints other lines.
    """
    printed = ""
    for fence in blocks:
        if fence.file:
            path = folder / fence.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(fence.text)
        elif fence.language == "bash":
            printed = "".join(shell(line, folder) for line in commands(fence))
        elif fence.language == "python":
            printed = execute([sys.executable, "-c", fence.text], folder, 0)
        elif fence.language == "text":
            lines = missing(fence.text, printed)
            assert not lines, f"{lines} not in:\n{printed}"


def commands(fence: Fence) -> list[str]:
    """The lines of a block of commands; one that ends in a backslash goes on."""
    return fence.text.replace("\\\n", "").splitlines()


def shell(command: str, folder: Path) -> str:
    """What a command prints."""
    stated = re.search(r"  # exits (\d+)$", command)
    return execute(["bash", "-c", command], folder, int(stated[1]) if stated else 0)


def execute(words: list[str], folder: Path, code: int) -> str:
    """What a process prints, which ends with this exit code and, if that is 0, without a warning."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, f"{words[-1]}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    assert code or not re.search(r"Warning|Traceback", done.stderr), f"{words[-1]}: {done.stderr}"
    return done.stdout


def missing(shown: str, printed: str) -> list[str]:
    """Lines of an excerpt that are not printed, in this order."""
    there = iter([alike(line) for line in printed.splitlines()])
    return [line for line in shown.splitlines() if line.strip() not in ("", "…") and alike(line) not in there]


def alike(line: str) -> str:
    """A line without what differs from run to run, and without its blanks."""
    return re.sub(r"[\s─]+", " ", MEASURED.sub("#", line)).strip()
