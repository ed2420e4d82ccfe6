"""Programs as they are printed, without what two equal programs may spell differently: before XLA and after it."""

from __future__ import annotations

import re
from typing import Any

import jax

from runner.arrays import trees

# Compiler options for what runs once: what the compiler would gain costs twice its time.
RUN_ONCE: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

_METADATA = re.compile(r', metadata=\{(?:[^{}"]|"(?:\\.|[^"\\])*")*\}')
_NAME = re.compile(r"%[\w.\-]+")
_PARAMETER = re.compile(r"(?<=[(\s])[\w.\-]+(?=: )")
_TABLES = re.compile(r"^(FileNames|FunctionNames|FileLocations|StackFrames)\n(?:\d+ .*\n)*", re.MULTILINE)
_STABLE_MODULE = re.compile(r"^module @\S+")
_MODULE = re.compile(r"^HloModule [^\s,]+")


def before_xla(traced: Any) -> tuple[Any, str]:
    """Names and kinds of what a traced function gives, and what XLA gets of it: where both agree, so do the bits."""
    given = [(path, jax.tree.leaves(leaf)) for path, leaf in trees.flatten(traced.out_info)]
    kinds = [(path, leaf.shape, leaf.dtype) for path, (leaf,) in given]
    return kinds, _STABLE_MODULE.sub("module", str(traced.lower().as_text()))


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
