"""What a layer's code reads that was drawn while a module was imported, found in the source: nothing draws it again.

A kernel that is a global array, an attribute of a class, a default or the result of a cached function is the same for
every seed. A trace shows only its numbers, and those of a table may look as irregular.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import jax
import numpy as np

from runner.arrays import trees
from runner.checks.probes.subject import Subject
from runner.checks.user_code import set_order, swapped

_MODULES = (jax.random, np.random, random)
_PUBLIC = {
    jax.random: [name for name in dir(jax.random) if name[0] != "_"],
    np.random: np.random.__all__,
    random: random.__all__,
}
_DRAWING = [value for module, names in _PUBLIC.items() for name in names if callable(value := getattr(module, name))]
_GENERATORS = (np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
MAX_DEPTH = 4


def of(subject: Subject) -> list[str]:
    """`file.py:12: WEIGHT = np.random.default_rng(5).normal(…)`, for each such line that the layer's code can reach."""
    reader = _Reader()
    for kind in set_order.classes(subject):
        reader.read(kind, 0)
    return reader.found


class _Reader:
    """Follows names from the sources of classes and functions to what was drawn for them."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._seen: set[int] = set()

    def read(self, source: Any, depth: int) -> None:
        """Follows what a class, or a function, of the user's reads."""
        if id(source) in self._seen or depth > MAX_DEPTH:
            return
        self._seen.add(id(source))
        for base in inspect.getmro(source)[1:] if isinstance(source, type) else ():
            if _is_followed(base):
                self.read(base, depth)
        module, parsed = sys.modules.get(source.__module__), set_order.parsed_source(source)
        if module is None or parsed is None:
            return
        tree, first = parsed
        for place in _made_at_import(tree):
            self._note(module, place, first)
        if hasattr(source, "cache_info") and _draws(tree, module):
            self._note(module, tree.body[0], first)  # type: ignore[attr-defined]
        for name, value in {**_globals(tree, module), **_closed(source)}.items():
            self._follow(module, name, value, depth)

    def _follow(self, module: ModuleType, name: str, value: Any, depth: int) -> None:
        if _is_followed(value):
            self.read(value, depth + 1)
        elif "." in name:
            owner, _, last = name.rpartition(".")
            found = _resolved(owner, module)
            if isinstance(found, ModuleType) and swapped.is_user(found.__name__):
                self._follow(found, last, value, depth)
        elif _may_be_drawn(value):
            for home, statement in _assignments(module, name):
                self._note(home, statement, 1)

    def _note(self, module: ModuleType, node: ast.AST, first: int) -> None:
        if _draws(node, module):
            line = first + node.lineno - 1  # type: ignore[attr-defined]
            words = f"{Path(module.__file__ or '?').name}:{line}: {ast.unparse(node).splitlines()[0]}"
            self.found.extend([words] if words not in self.found else [])


def _is_followed(value: Any) -> bool:
    """Whether a value is a class or function of the user's, whose source says what it reads."""
    made = isinstance(value, (type, FunctionType)) or hasattr(value, "cache_info")
    return made and swapped.is_user(getattr(value, "__module__", None) or "builtins")


def _may_be_drawn(value: Any) -> bool:
    """Whether a value may hold numbers that were drawn; what draws, and its seed, is none."""
    if isinstance(value, (jax.Array, np.ndarray)):
        return value.size > 1 and not trees.is_key(value) and value.dtype != np.uint32
    known = (str, bytes, int, float, complex, ModuleType, type, *_GENERATORS)
    return not (callable(value) or isinstance(value, known))


def _made_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Attributes of a class and defaults of functions: they are made once."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (one for one in node.body if isinstance(one, (ast.Assign, ast.AnnAssign)))
        if isinstance(node, _FUNCTIONS):
            yield from (one for one in [*node.args.defaults, *node.args.kw_defaults] if one is not None)


def _globals(tree: ast.AST, module: ModuleType) -> dict[str, Any]:
    """The names, dotted ones too, that code reads from its module, with what they are."""
    names = dict.fromkeys(
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load)
    )
    found = {name: _resolved(name, module) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _closed(source: Any) -> dict[str, Any]:
    """What the functions of a class, or a function, have in their closures."""
    functions = vars(source).values() if isinstance(source, type) else [inspect.unwrap(source)]
    found: dict[str, Any] = {}
    for one in functions:
        if isinstance(one, FunctionType):
            cells = zip(one.__code__.co_freevars, one.__closure__ or (), strict=True)
            found |= {name: cell.cell_contents for name, cell in cells if name != "__class__" and _is_full(cell)}
    return found


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # it is not assigned yet
        return False


def _resolved(name: str, module: ModuleType) -> Any:
    """What a dotted name is in a module; None for what it does not know, and for what an object holds."""
    first, *rest = name.split(".") if name.replace(".", "").replace("_", "").isalnum() else [""]
    value = vars(module).get(first)
    for part in rest:
        if not isinstance(value, (ModuleType, type)):
            return None
        value = getattr(value, part, None)
    return value


def _assignments(module: ModuleType, name: str, depth: int = 0) -> list[tuple[ModuleType, ast.AST]]:
    """The statements that assign a name, in its module or in the user's module that it is imported from."""
    found: list[tuple[ModuleType, ast.AST]] = []
    for node in _statements_of(module).get(name, []):
        if not isinstance(node, ast.ImportFrom):
            found.append((module, node))
            continue
        home = sys.modules.get(_imported_from(node, module))
        if home is not None and depth < MAX_DEPTH and swapped.is_user(home.__name__):
            original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
            found += _assignments(home, original, depth + 1)
    return found


def _imported_from(node: ast.ImportFrom, module: ModuleType) -> str:
    package = (module.__package__ or "").split(".")
    above = package[: len(package) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def _statements_of(module: ModuleType) -> dict[str, list[ast.stmt]]:
    """The statements of a module that assign or import a name, by name, as its file is now."""
    try:
        return _statements(Path(getattr(module, "__file__", None) or "").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}


@functools.lru_cache(64)
def _statements(source: str) -> dict[str, list[ast.stmt]]:
    found: dict[str, list[ast.stmt]] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.asname or alias.name for alias in node.names]
        for name in names:
            found.setdefault(name, []).append(node)  # type: ignore[arg-type]
    return found


def _draws(node: ast.AST, module: ModuleType, seen: set[int] | None = None) -> bool:
    """Whether code uses a generator, itself, in a function of the user's that it names, or in a value that it names."""
    seen = set() if seen is None else seen
    if id(node) in seen:
        return False
    seen.add(id(node))
    named = _globals(node, module)
    if any(map(_is_generator, named.values())):
        return True
    for value in named.values():
        if isinstance(value, FunctionType) and _is_followed(value) and id(value) not in seen:
            seen.add(id(value))
            parsed, home = set_order.parsed_source(value), sys.modules.get(value.__module__)
            if parsed is not None and home is not None and _draws(parsed[0], home, seen):
                return True
    own = {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)}
    known = {name for name in own if callable(named.get(name)) or isinstance(named.get(name), ModuleType)}
    names = own - known - set(vars(builtins))
    if not isinstance(node, ast.stmt) or isinstance(node, _FUNCTIONS):
        names &= set(vars(module))  # a variable of a function is assigned in it
    return any(_draws(one, home, seen) for name in names for home, one in _assignments(module, name))


def _is_generator(value: Any) -> bool:
    """Whether a value is a generator, a key, a module of generators, or a function or class of one."""
    if isinstance(value, _GENERATORS) or (isinstance(value, jax.Array) and trees.is_key(value)):
        return True
    if isinstance(getattr(value, "__self__", None), _GENERATORS) or any(value is one for one in _MODULES):
        return True
    return callable(value) and any(value is one for one in _DRAWING)
