"""The user's modules that code comes from: source files by import, neither installed nor Python's own."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

# Identified by their versions, as is whatever is installed.
VERSIONED = ("runner", "flax", "jax")
_INSTALLED = {"site-packages", "dist-packages"}

# A user's layer comes from a few files; of a pipeline's hundreds the first have to do.
MAX_FILES = 256


def helpers(module: ModuleType) -> dict[str, str]:
    """The source of the user's modules that `module` imports, directly or through others, without its own."""
    found = closure([module])
    found.pop(module.__name__, None)
    return found


def closure(roots: Sequence[ModuleType]) -> dict[str, str]:
    """The sources of `roots` and of the user's modules that they import, in order of discovery."""
    found: dict[str, str] = {}
    waiting = list(roots)
    while waiting and len(found) < MAX_FILES:
        module = waiting.pop(0)
        name = module.__name__
        if name in found or name.partition(".")[0] in VERSIONED:
            continue
        text = _source(module)
        if text is None:
            continue
        found[name] = text
        waiting += [sys.modules[other] for other in _imported(module, text) if _is_users(other)]
    return found


def module_of(path: str) -> ModuleType | None:
    """The imported module that a dotted path names or lies in."""
    parts = path.partition("(")[0].replace(":", ".").split(".")
    names = (".".join(parts[:cut]) for cut in range(len(parts), 0, -1))
    return next((sys.modules[name] for name in names if name in sys.modules), None)


def _source(module: ModuleType) -> str | None:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):  # an extension, an empty file
        return None


def _imported(module: ModuleType, text: str) -> Iterator[str]:
    """The modules that a source imports as it is imported itself: by its text, so that every process finds the same."""
    package = module.__package__ or ""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    waiting: list[ast.stmt] = list(tree.body)
    for statement in waiting:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
            base = ".".join([*above, *([statement.module] if statement.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, (ast.If, ast.Try, ast.With)):
            waiting += [inner for inner in ast.walk(statement) if isinstance(inner, (ast.Import, ast.ImportFrom))]


def _is_users(name: str) -> bool:
    """Whether a module is a file of the user's, imported, and neither installed nor Python's own."""
    module = sys.modules.get(name)
    # Not `module.__file__`: a lazy module would be loaded by that.
    path = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    if not isinstance(path, str) or not path.endswith(".py"):
        return False
    return not (_INSTALLED & set(Path(path).parts) or Path(path).is_relative_to(_standard_library()))


@functools.cache
def _standard_library() -> str:
    return sysconfig.get_paths()["stdlib"]
