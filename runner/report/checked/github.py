"""Checks as GitHub Actions reads them: annotations of lines of code.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from runner.errors import visible
from runner.records.record import Check, Verdict
from runner.report.checked.program import CheckedProgram

TITLE = "bridge-runner check"


def commands(programs: Sequence[CheckedProgram], workspace: Path) -> list[str]:
    """A workflow command for each fail and warn, or one for all where there is none.

    Args:
      programs: What was checked.
      workspace: The checkout; a file outside of it can't be annotated.
    """
    lines: list[str] = []
    for program in programs:
        for check in program.checks:
            level = "error" if check.untested or check.verdict is Verdict.fail else "warning"
            if level == "error" or check.verdict is Verdict.warn:
                text = f"{check.detail}\n{check.fix}" if check.fix else check.detail
                what = f"{program.label}: {check.name}"
                lines.append(command(level, text, title=what, **_where(program, workspace, check)))
        if program.error is not None:
            what = f"{program.label}: could not be run"
            lines.append(command("error", program.error, title=what, **_where(program, workspace)))
    if not lines:
        names = ", ".join(dict.fromkeys(program.label for program in programs))
        lines.append(command("notice", f"every check passes: {names}", title=TITLE))
    return lines


def command(name: str, text: str, **properties: str) -> str:
    """The workflow command `::name key=value,…::text`, escaped as the runner reads it."""
    given = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {given}::{_data(text)}" if given else f"::{name}::{_data(text)}"


def _data(text: str) -> str:
    return visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _where(program: CheckedProgram, workspace: Path, check: Check | None = None) -> dict[str, str]:
    """The first of the program's files that is in the checkout, and the line that the check names, if it names one."""
    for file, line in program.places:
        inside = _inside(file, workspace)
        if inside is not None:
            found = f"{check.detail} {json.dumps(check.evidence, default=str)}" if check else ""
            named = re.search(rf"(?<![\w.]){re.escape(file.name)}:(\d+)", found)
            return {"file": inside, "line": named[1] if named else str(line)}
    return {}


def _inside(file: Path, workspace: Path) -> str | None:
    """The path of a file within the checkout; None outside of it, and in an environment that lies in it."""
    try:
        inside = file.resolve().relative_to(workspace.resolve())
    except ValueError:
        return None
    return None if {"site-packages", "dist-packages"} & set(inside.parts) else inside.as_posix()
