"""A check's result as lines of plain text: what was found, the evidence, the fix."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from runner.records.record import Check

WIDTH = 100


def failure_lines(check: Check) -> list[str]:
    """What was found, each piece of evidence, shortened, and the fix."""
    lines = wrapped(check.detail, f"{check.name}: ", "  ")
    lines += [
        f"  evidence  {name} = {textwrap.shorten(shown(value), 3 * WIDTH, placeholder=' …')}"
        for name, value in check.evidence.items()
    ]
    return lines + fix_lines(check, "  ")


def fix_lines(check: Check, indent: str) -> list[str]:
    """The fix, one line or several; none if there is nothing to fix."""
    first, *more = (check.fix or "").splitlines() or [""]
    return [f"{indent}fix  {first}", *(f"{indent}     {line}" for line in more)] if check.fix else []


def wrapped(text: str, left: str, indent: str | None = None) -> list[str]:
    """`text` behind `left`, on lines of `WIDTH` characters; the others begin with `indent`, or as many spaces."""
    more = " " * len(left) if indent is None else indent
    return textwrap.wrap(text, WIDTH, initial_indent=left, subsequent_indent=more, break_long_words=False) or [left]


def shown(value: Any) -> str:
    """A piece of evidence on one line."""
    return json.dumps(value, default=str, ensure_ascii=False)
