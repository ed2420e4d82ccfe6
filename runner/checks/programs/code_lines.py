"""Which line of whose code an equation of a jaxpr comes from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax
import jax

import runner


def _folder(package: Any) -> str:
    return f"{Path(str(package.__file__)).parent}/"


_JAX, _FLAX, _OWN = _folder(jax), _folder(flax), _folder(runner)
_BRIDGE = f"{_FLAX}nnx/bridge/"
_LIFTED = (f"{_FLAX}core/lift.py", f"{_FLAX}core/axes_scan.py", f"{_FLAX}nnx/transforms/")
_LAYERS = f"{_OWN}bridge/layers/"


def line_of(equation: Any) -> str | None:
    """The line of the layer's code, outside of JAX and Flax, e.g. `mine.py:12 in Mine.__call__`; None if unknown."""
    for frame in _frames(equation):
        name = frame.file_name
        if name.startswith(_OWN) and not name.startswith(_LAYERS):
            return None  # from here on it is the caller's
        if not name.startswith((_JAX, _FLAX)):
            return f"{Path(name).name}:{frame.line_num} in {frame.function_name}"
    return None


def origin(equation: Any) -> str | None:
    """The line of the layer's code that makes a key; None where that is the bridge's own fallback, or unknown."""
    for frame in _frames(equation):
        if frame.file_name.startswith(_BRIDGE):
            return None
        if not frame.file_name.startswith((_JAX, _FLAX)):
            break
    return line_of(equation)


def in_jax_random(equation: Any) -> bool:
    """Whether a function of `jax.random` makes the equation."""
    for frame in _frames(equation):
        if not frame.file_name.startswith(_JAX):
            return False
        if "random" in frame.file_name.removeprefix(_JAX):
            return True
    return False


def call_site(equation: Any) -> tuple[Any, Any]:
    """Which call of a JAX function makes the equation, and where inside of JAX: lines, and what is called there."""
    frames = list(_frames(equation))
    within = list(itertools.takewhile(lambda frame: frame.file_name.startswith(_JAX), frames))
    inside = tuple((frame.file_name, frame.line_num) for frame in within)
    outside = tuple((frame.file_name, frame.line_num) for frame in frames[len(within) :])
    # What JAX inlines has the line of the call: there, loops are told apart by what they carry.
    name = equation.params.get("name")
    called = name or (equation.primitive.name, *(str(atom.aval) for atom in equation.invars))
    return (within[-1].function_name if within else None, outside), (inside, called)


def in_lifted(equation: Any) -> bool:
    """Whether a transformation of Flax makes the equation."""
    for frame in _frames(equation):
        if not frame.file_name.startswith((_JAX, _FLAX)):
            return False
        if frame.file_name.startswith(_LIFTED):
            return True
    return False


def _frames(equation: Any) -> Iterator[Any]:
    """The frames that were active when the equation was traced, innermost first."""
    traceback = equation.source_info.traceback
    yield from traceback.frames if traceback else ()
