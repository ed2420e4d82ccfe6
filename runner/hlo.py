"""Optimised programs as XLA prints them, without what two equal programs may spell differently."""

from __future__ import annotations

import re
from typing import Any

_METADATA = re.compile(r', metadata=\{(?:[^{}"]|"(?:\\.|[^"\\])*")*\}')
_NAME = re.compile(r"%[\w.\-]+")
_PARAMETER = re.compile(r"(?<=[(\s])[\w.\-]+(?=: )")
_TABLES = re.compile(r"^(FileNames|FunctionNames|FileLocations|StackFrames)\n(?:\d+ .*\n)*", re.MULTILINE)
_MODULE = re.compile(r"^HloModule [^\s,]+")


def normalized(text: str) -> str:
    """`text` with names numbered in the order they come, and without metadata: source lines, names of operations."""
    text = _MODULE.sub("HloModule m", _TABLES.sub("", text))
    numbers: dict[str, str] = {}
    lines = (_PARAMETER.sub("_", _METADATA.sub("", line)) for line in text.splitlines() if line.strip())
    return "\n".join(_NAME.sub(lambda found: numbers.setdefault(found[0], f"%{len(numbers)}"), line) for line in lines)


def equal(first: Any, second: Any) -> bool | None:
    """Whether two compiled programs are one; None where the backend prints none."""
    texts = first.as_text(), second.as_text()
    if not all(texts):
        return None
    return normalized(texts[0]) == normalized(texts[1])
