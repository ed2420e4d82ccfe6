"""Loops over sets of strings in a layer's own source: Python orders them by a hash that differs in every process."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import linecache
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import jax
from flax import nnx

from runner.checks.probes.subject import Subject

# Packages whose sources are not the user's.
_KNOWN = ("flax", "jax", "runner", "builtins")

_COMPREHENSIONS = (ast.ListComp, ast.DictComp, ast.GeneratorExp)

# What makes the same of a set in any order.
_ORDERLESS = frozenset({"sorted", "set", "frozenset", "len", "all", "any", "min", "max"})

# Methods that make a set of a set.
_OF_SETS = frozenset({"union", "intersection", "difference", "symmetric_difference", "copy"})

# How far a call is followed: from the layer's class to a helper, and to one that that calls.
_MAX_DEPTH = 4

# What keeps the order in which it iterates.
_IN_ORDER = frozenset({"list", "tuple", "enumerate", "iter", "map", "zip", "reversed"})


def of(subject: Subject) -> list[str]:
    """`file.py:12` with the loop's line, for each loop over a set of strings in which the order counts."""
    if not _is_random():
        return []
    own = _outer(subject)
    # Classes of one file call the same helpers.
    loops, helpers = functools.cache(lambda one: list(_loops(one))), functools.cache(_helpers)
    found = {
        source: list(dict.fromkeys(loop for one in _called(source, helpers) for loop in loops(one)))
        for source in _reachable(own)
    }
    if not any(found.values()):
        return []
    # Only now: building the layer once more costs as much as a trace of its constructor.
    used = [*own, *_inner(subject)]
    return [loop for source in found if source in used for loop in found[source]]


def classes(subject: Subject) -> list[Any]:
    """The user's classes and factories that the host and the layer are made of, each once."""
    return list(dict.fromkeys([*_outer(subject), *_inner(subject)]))


def unread(subject: Subject) -> list[str]:
    """Names of the layer's and host's classes and factories whose source can't be read: typed at a prompt, compiled."""
    return [kind.__name__ for kind in _outer(subject) if parsed_source(kind) is None] if _is_random() else []


def _is_random() -> bool:
    return os.environ.get("PYTHONHASHSEED", "random") == "random"


def _outer(subject: Subject) -> list[Any]:
    """The host, and what makes the layer, if they are the user's."""
    model: Any = subject.model.model
    outer = [type(model), getattr(model, "nnx_class", None)]
    return _own(outer + [getattr(value, "nnx_class", None) for value in vars(model).values()])


def _reachable(own: list[Any]) -> list[Any]:
    """`own`, and the modules that their files have in reach by name: any of them may be inside the layer."""
    found, waiting = dict.fromkeys(own), list(own)
    while waiting:
        file = sys.modules.get(waiting.pop().__module__)
        kinds = [item for item in vars(file).values() if isinstance(item, type) and issubclass(item, nnx.Module)]
        new = [kind for kind in _own(kinds) if kind not in found]
        found |= dict.fromkeys(new)
        waiting += new
    return list(found)


def _inner(subject: Subject) -> list[Any]:
    """The classes of the modules inside the wrapped layer."""
    construct, kinds = (subject.layer or subject.model).construct, list[Any]()
    if construct is None:
        return kinds

    def build(key: jax.Array) -> None:
        module = construct(nnx.Rngs({"default": key, **dict.fromkeys(subject.needs.streams, key)}))
        kinds.extend(type(inner) for _, inner in nnx.iter_modules(module))
        kinds.extend(base for kind in list(kinds) for base in kind.__mro__ if not _overrides(kind, base))

    with contextlib.suppress(Exception):  # the layer's own code; another check says what it raises
        jax.eval_shape(build, jax.eval_shape(lambda: jax.random.key(0)))
    return kinds


def _overrides(kind: type, base: type) -> bool:
    """Whether `kind` has a function of its own in place of one of `base`, in which the loop may have been."""
    return any(callable(item) and name in vars(kind) for name, item in vars(base).items())


def _own(kinds: list[Any]) -> list[Any]:
    """Those of `kinds` that are the user's, each once; of a `functools.partial`, what it calls and binds."""
    parts = [part for kind in kinds for part in _parts(kind)]
    named = [kind for kind in parts if kind is not None and getattr(kind, "__module__", None) in sys.modules]
    return list(dict.fromkeys(kind for kind in named if kind.__module__.split(".")[0] not in _KNOWN))


def _parts(kind: Any) -> list[Any]:
    if not isinstance(kind, functools.partial):
        return [kind]
    bound = (value for value in (*kind.args, *kind.keywords.values()) if _has_source(value))
    return [part for value in (kind.func, *bound) for part in _parts(value)]


def _has_source(value: Any) -> bool:
    return isinstance(value, (type, FunctionType, functools.partial))


def parsed_source(kind: Any) -> tuple[ast.AST, int] | None:
    """The parsed source of a class or function and the line of its file that it counts from; None where none is."""
    try:
        if isinstance(kind, type):
            lines = linecache.getlines(inspect.getsourcefile(kind) or "", vars(sys.modules[kind.__module__]))
            found = _classes("".join(lines)).get(kind.__qualname__)
            return None if found is None else (found, 1)
        return _parsed_function(kind)
    except (OSError, TypeError, SyntaxError):
        return None


@functools.lru_cache(1024)
def _parsed_function(function: Any) -> tuple[ast.AST, int]:
    lines, start = inspect.getsourcelines(function)
    return ast.parse(textwrap.dedent("".join(lines))), start


@functools.lru_cache(16)
def _classes(source: str) -> dict[str, ast.AST]:
    """The classes of a file by their qualified names. `inspect` parses the file again for each of them."""
    found: dict[str, ast.AST] = {}

    def walk(node: ast.AST, within: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = within
            if isinstance(child, ast.ClassDef):
                found[within + child.name] = child
                inner = f"{within}{child.name}."
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = f"{within}{child.name}.<locals>."
            walk(child, inner)

    walk(ast.parse(source), "")
    return found


def _called(source: Any, helpers: Callable[[Any], list[Any]]) -> list[Any]:
    """A class or function, and the user's functions that it calls by name, and those that these call."""
    found, waiting = dict.fromkeys([source]), [source]
    for _ in range(_MAX_DEPTH):
        waiting = [helper for one in waiting for helper in helpers(one) if helper not in found]
        found |= dict.fromkeys(waiting)
    return list(found)


def _helpers(source: Any) -> list[Any]:
    """The user's functions that a class or function calls by their names in its file."""
    if (parsed := parsed_source(source)) is None:
        return []
    known = vars(sys.modules.get(source.__module__, source))
    called = [known.get(ast.unparse(node.func)) for node in ast.walk(parsed[0]) if isinstance(node, ast.Call)]
    return [one for one in _own(called) if isinstance(one, FunctionType)]


def _loops(source: Any) -> Iterator[str]:
    if (parsed := parsed_source(source)) is None:
        return
    tree, start = parsed
    path = Path(inspect.getsourcefile(source) or "?").name
    names = _Names(tree, vars(sys.modules.get(source.__module__, source)), source)
    harmless = {id(item) for node in ast.walk(tree) if _is_call(node, _ORDERLESS) for item in node.args}  # type: ignore[attr-defined]
    # What an error says is no number.
    harmless |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.Raise) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if any(names.is_set(loop) for loop in _iterated(node, harmless)):
            line = start + node.lineno - 1  # type: ignore[attr-defined]
            yield f"{path}:{line}: {ast.unparse(node).splitlines()[0].rstrip(':')}"


def _iterated(node: ast.AST, harmless: set[int]) -> list[ast.expr]:
    """What `node` iterates over, if it does so in an order that counts."""
    if isinstance(node, ast.For):
        return [node.iter] if any(map(_does_something, node.body)) else []
    if isinstance(node, _COMPREHENSIONS) and id(node) not in harmless:
        return [part.iter for part in node.generators]
    if isinstance(node, ast.Call) and id(node) not in harmless and _is_call(node, _IN_ORDER):
        return list(node.args)
    return []


def _does_something(statement: ast.stmt) -> bool:
    """Whether a statement in a loop makes something: one that only tests and raises is the same in any order."""
    makes = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Yield, ast.Return, ast.Call)
    tests = [
        part for node in ast.walk(statement) if isinstance(node, (ast.Raise, ast.Assert)) for part in ast.walk(node)
    ]
    tests += [part for node in ast.walk(statement) if isinstance(node, ast.If) for part in ast.walk(node.test)]
    skipped = {id(part) for part in tests}
    return any(isinstance(node, makes) and id(node) not in skipped for node in ast.walk(statement))


def _is_call(node: ast.AST, names: frozenset[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


class _Names:
    """Which expressions of a class's source are sets of strings."""

    def __init__(self, tree: ast.AST, known: Any, source: Any) -> None:
        self._known, self._source = known, source
        self._assigned = {
            ast.unparse(target): node.value
            for node in ast.walk(tree)
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        }

    def is_set(self, node: ast.expr, depth: int = 0) -> bool:
        """Whether `node` is a set that may hold strings."""
        if depth > _MAX_DEPTH:
            return False
        if isinstance(node, ast.Set):
            return not all(isinstance(item, ast.Constant) and isinstance(item.value, int) for item in node.elts)
        if isinstance(node, ast.SetComp):
            return not all(_is_call(part.iter, frozenset({"range"})) for part in node.generators)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)):
            sides = node.left, node.right
            return any(self.is_set(side, depth + 1) or _is_view(side) for side in sides)
        if _is_call(node, frozenset({"set", "frozenset"})):
            return not _is_range(node)
        if isinstance(node, ast.Call):
            return self._gives_set(node, depth + 1)
        if not isinstance(node, (ast.Name, ast.Attribute)):
            return False
        name = ast.unparse(node)
        if name in self._assigned:
            return self.is_set(self._assigned[name], depth + 1)
        owner, _, last = name.rpartition(".")
        value = getattr(self._source, last, None) if owner == "self" else self._known.get(name)
        return isinstance(value, (set, frozenset)) and not all(map(_is_number, value))

    def _gives_set(self, call: ast.Call, depth: int) -> bool:
        """Whether a call gives a set: a method of one, or a function of the user's that returns one."""
        if isinstance(call.func, ast.Attribute) and call.func.attr in _OF_SETS:
            return self.is_set(call.func.value, depth)
        function = self._known.get(ast.unparse(call.func))
        if not isinstance(function, FunctionType) or not _own([function]):
            return False
        if (parsed := parsed_source(function)) is None:
            return False
        inside = _Names(parsed[0], vars(sys.modules[function.__module__]), function)
        returned = [node.value for node in ast.walk(parsed[0]) if isinstance(node, ast.Return) and node.value]
        return any(inside.is_set(value, depth) for value in returned)


def _is_view(node: ast.AST) -> bool:
    """Whether `node` is `….keys()` or `….items()`, of which `&` and the like make a set."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("keys", "items")


def _is_number(item: Any) -> bool:
    """Whether an item of a set is hashed alike in every process: numbers are, and tuples of them."""
    return isinstance(item, (int, float, complex)) or (isinstance(item, tuple) and all(map(_is_number, item)))


def _is_range(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and bool(node.args) and _is_call(node.args[0], frozenset({"range"}))
