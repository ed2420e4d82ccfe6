"""Random weights that start equal: layers of a stack, and modules that are copies of one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from runner.arrays import trees
from runner.checks.probes.randomness import is_drawn, repeated_slices
from runner.checks.programs import code_lines
from runner.checks.programs.draws import Draws
from runner.errors import listed

MAX_NAMED = 4

# Functions of `jax.numpy` by which code says itself that numbers are to be there several times.
COPYING = frozenset({"tile", "repeat", "stack", "concatenate", "broadcast_to", "vstack", "hstack", "resize", "kron"})


def copied_by(closed: Any, place: int) -> str | None:
    """The function of `jax.numpy` by which the layer's own code makes more of the numbers that it has drawn.

    Only the last equation counts that gives more numbers than it gets. A stack whose layers draw from one key is made
    of equal ones by what maps its constructor, whatever each layer does with its numbers.

    Args:
      closed: The jaxpr of init.
      place: Which output.
    """
    equations, drawn = closed.jaxpr.eqns, set(closed.jaxpr.invars)
    for equation in equations:
        if not drawn.isdisjoint(_variables(equation)):
            drawn.update(equation.outvars)
    wanted = {closed.jaxpr.outvars[place]}
    for equation in reversed(equations):
        if wanted.isdisjoint(equation.outvars):
            continue
        of_numbers = [
            one for one in _variables(equation) if one in drawn and jnp.issubdtype(one.aval.dtype, jnp.inexact)
        ]
        if not of_numbers:
            continue  # the draw itself, or a constant
        wanted.update(of_numbers)
        if max(one.aval.size for one in equation.outvars) > max(one.aval.size for one in of_numbers):
            (function, _), _ = code_lines.call_site(equation)
            return str(function) if function in COPYING and not code_lines.in_lifted(equation) else None
    return None


def _variables(equation: Any) -> list[Any]:
    return [atom for atom in equation.invars if not isinstance(atom, Literal)]


def in_part(leaves: Mapping[trees.Path, np.ndarray], draws: Mapping[trees.Path, Set[int]], found: Draws) -> list[str]:
    """Leaves some of whose slices are equal, with the axis: those drawn from equal keys, not repeated after a draw.

    Args:
      leaves: Arrays by path.
      draws: Ids of the calls of `jax.random` that each depends on.
      found: What init draws.
    """
    named = []
    for path, array in leaves.items():
        repeated = repeated_slices(array)
        if repeated is None or len(repeated[1][0]) == array.shape[repeated[0]]:
            continue
        axis, groups = repeated
        num_distinct = array.shape[axis] - sum(len(group) - 1 for group in groups)
        slices = array.size // array.shape[axis]
        num_drawn = sum(prod(one.shape) for one in found.draws if one.call.id in draws[path])
        # Repeated after its draw, as sub-kernels are for pixel shuffle: exactly the different ones were drawn.
        if num_drawn != num_distinct * slices:
            equal = " and ".join(", ".join(map(str, group)) for group in groups[:2])
            named.append(f"{'/'.join(map(str, path))} is the same at {equal} of axis {axis}")
    return named


def copies(leaves: Mapping[trees.Path, Any]) -> tuple[list[str], list[str]]:
    """Leaves at different paths that are equal: of modules that are numbered alike, and of others.

    Args:
      leaves: Arrays by path, all of them random.
    """
    by_shape: dict[Any, list[trees.Path]] = {}
    for path, leaf in leaves.items():
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact):
            by_shape.setdefault((leaf.shape, str(leaf.dtype)), []).append(path)
    groups: dict[bytes, list[trees.Path]] = {}
    for (shape, dtype), paths in by_shape.items():
        for path in paths if len(paths) > 1 else []:
            array = np.asarray(leaves[path])
            if is_drawn(array):
                groups.setdefault(f"{shape}{dtype}".encode() + array.tobytes(), []).append(path)
    equal = [paths for paths in groups.values() if len(paths) > 1]
    numbered = [paths for paths in equal if len({_unnumbered(path) for path in paths}) < len(paths)]
    return _spelled(numbered), _spelled([paths for paths in equal if paths not in numbered])


def _unnumbered(path: trees.Path) -> tuple[str, ...]:
    """The path of a leaf without the numbers in it: one for all the members of a list."""
    return tuple(re.sub(r"\d+", "#", str(part)) for part in path)


def _spelled(groups: Sequence[Sequence[trees.Path]]) -> list[str]:
    return [listed(trees.spell_each(paths), MAX_NAMED) for paths in groups]
