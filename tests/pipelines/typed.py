"""A page's files and commands, as a user has them: written into a folder, and typed in this process."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.commands import main
from tests.pipelines.proofs.source import ROOT

PAGES = ROOT / "docs" / "pipelines"

# A block of a page: its language and its lines.
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)

# What a command is said to end with: `bridge-runner check …  # exit 1`.
EXIT = re.compile(r"\s+# exit (\d+)$")


@dataclass(frozen=True)
class Said:
    """What a command gave.

    Attributes:
      code: Its exit code.
      text: All that it printed, in one line each.
    """

    code: int
    out: str
    text: str


@dataclass(frozen=True)
class Checked:
    """What `bridge-runner check --json` gave.

    Attributes:
      code: Its exit code.
      verdicts: From each check's name to pass, warn or fail.
      details: From each check's name to what it said.
      fixes: From each check's name to its fix, or nothing.
    """

    code: int
    verdicts: Mapping[str, str]
    details: Mapping[str, str]
    fixes: Mapping[str, str]

    def failed(self) -> list[str]:
        return [name for name, verdict in self.verdicts.items() if verdict == "fail"]


def blocks(name: str) -> list[tuple[str, str]]:
    """The blocks of Python and Bash on the page of pipeline `name`, in order; none where there is no page."""
    page = PAGES / f"{name}.md"
    return BLOCK.findall(page.read_text()) if page.exists() else []


def file_name(block: str) -> str | None:
    """The file that a Python block is: `layers.py` where it opens with `# layers.py`."""
    match = re.match(r"# (\w+\.py)\n", block)
    return match[1] if match else None


def write_files(name: str, folder: Path) -> None:
    """Writes the files on the page of `name` into `folder`, and puts it on the path."""
    for language, block in blocks(name):
        if language == "python" and (file := file_name(block)):
            (folder / file).write_text(block)
    sys.path.insert(0, str(folder))


def run(*words: object) -> Said:
    """`bridge-runner WORDS`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.main([str(word) for word in words])
    return Said(code, out.getvalue(), f"{out.getvalue()}\n{err.getvalue()}")


def check(*words: object) -> Checked:
    """`bridge-runner check WORDS --json`, of one program.

    Raises:
      AssertionError: It was refused; with what was said.
    """
    said = run("check", "--json", *words)
    assert said.out.lstrip().startswith("["), said.text
    (program,) = json.loads(said.out)
    checks: list[dict[str, Any]] = program["checks"]
    return Checked(
        said.code,
        {one["name"]: "fail" if one["untested"] else one["verdict"] for one in checks},
        {one["name"]: " ".join(one["detail"].split()) for one in checks},
        {one["name"]: one["fix"] or "" for one in checks},
    )


def counted(found: Checked) -> str:
    """How many checks passed, warned and failed: `16 pass, 1 warn`."""
    verdicts = list(found.verdicts.values())
    return ", ".join(f"{verdicts.count(kind)} {kind}" for kind in ("pass", "warn", "fail") if kind in verdicts)


def type_page(name: str) -> list[str]:
    """Runs what is on the page of `name`, block by block, in the working directory; returns the commands typed.

    Python blocks that are no files are run where they stand; of Bash, what begins with `bridge-runner`.

    Raises:
      AssertionError: A command ends otherwise than the page says (0, or `# exit 1`).
    """
    typed = []
    for language, block in blocks(name):
        if language == "python" and not file_name(block):
            exec(compile(block, f"{name}.md", "exec"), {"__name__": "page"})
        for line in block.replace("\\\n", "").splitlines() if language == "bash" else ():
            command = EXIT.sub("", line)
            if not command.startswith("bridge-runner "):
                continue
            ends = EXIT.search(line)
            said = run(*shlex.split(command, comments=True)[1:])
            assert said.code == int(ends[1] if ends else 0), f"{command}\n{said.text}"
            typed.append(command)
    return typed
