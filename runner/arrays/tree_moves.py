"""Finds the leaves of one tree among those that another has at other paths. Pure.

Two ways: `certain` pairs only what can't be another leaf, since weights are moved by it; `likely` says where a missing
leaf probably is, since a person reads it.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from runner.arrays import trees
from runner.errors import nearest

# Comparing spellings is slow: limits on the differences that get a nearest path, and on the candidates for each.
MAX_NEAREST = 50
MAX_CANDIDATES = 100

# A path with every part as text: Orbax restores integer keys as strings.
Parts = tuple[str, ...]

# New paths of leaves, and their old ones.
Moves = dict[str, str]


def kind(leaf: Any) -> str:
    """Dtype and shape: `float32[4,8]`."""
    value = trees.unbox(leaf)
    name = np.dtype(value.dtype).name if isinstance(value.dtype, np.dtype) else value.dtype
    return f"{name}[{','.join(map(str, value.shape))}]"


def certain(missing: Mapping[str, Any], extra: Mapping[str, Any]) -> Moves:
    """Pairs leaves with exactly one match on each side: of the same bits, or else of the same last name and kind."""
    found: dict[str, str] = {}
    for looks in (_looks_with_bits, _looks):
        paired = found.keys() | set(found.values())
        sides = []
        for side in (extra, missing):
            groups = defaultdict(list)
            for name, leaf in side.items():
                if name not in paired and (look := looks(name, leaf)) is not None:
                    groups[look].append(name)
            sides.append(groups)
        for look, names in sides[1].items():
            if len(names) == 1 and len(sides[0].get(look, [])) == 1:
                found[names[0]] = sides[0][look][0]
    return found


def _looks_with_bits(name: str, leaf: Any) -> Any:
    # A constant leaf (a zero bias) matches every other one.
    if not isinstance(leaf, np.ndarray) or leaf.size < 2 or (leaf == leaf.flat[0]).all():
        return None
    return trees.array_digest(leaf)


def _looks(name: str, leaf: Any) -> Any:
    return name.rpartition("/")[2], kind(leaf)


def likely(missing: Mapping[str, Any], extra: Mapping[str, Any]) -> Moves:
    """Pairs leaves that differ in the collection or in one module's name.

    Whole modules are matched before single leaves, and each extra leaf at most once.
    """
    lost, surplus = ({tuple(name.split("/")): kind(leaf) for name, leaf in side.items()} for side in (missing, extra))
    return {"/".join(new): "/".join(old) for new, old in _misplaced(lost, surplus).items()}


def natural(parts: Iterable[str]) -> list[list[tuple[int, str]]]:
    """Natural sort key: `Dense_10` after `Dense_2`."""
    return [_natural_part(part) for part in parts]


@functools.lru_cache(maxsize=2**14)
def _natural_part(part: str) -> list[tuple[int, str]]:
    return [(int(one), "") if one.isdecimal() else (-1, one) for one in re.split(r"(\d+)", part)]


def _misplaced(missing: Mapping[Parts, str], extra: Mapping[Parts, str]) -> dict[Parts, Parts]:
    moved: dict[Parts, Parts] = {}
    lost, surplus = dict(missing), dict(extra)
    depth = max((len(parts) for parts in lost), default=0)
    # Collections first, then modules from the outside in: of two matches, prefer the one that moves more at once.
    for level in range(depth - 1):
        spare = _by_content(surplus, level)
        for place, modules in _by_content(lost, level).items():
            for new, old in zip(modules, spare.get(place, ()), strict=False):
                for rest, _ in place[1]:
                    moved[*new, *rest] = (*old, *rest)
                    del lost[*new, *rest], surplus[*old, *rest]
    for level in range(depth - 1):
        alone = defaultdict(list)
        for parts in sorted(surplus, key=natural, reverse=True):
            alone[parts[:level], parts[level + 1 :], surplus[parts]].append(parts)
        for parts in sorted(lost, key=natural):
            if matches := alone.get((parts[:level], parts[level + 1 :], lost[parts])):
                moved[parts] = matches.pop()
                del lost[parts], surplus[moved[parts]]
    return moved


def _by_content(
    leaves: Mapping[Parts, str], level: int
) -> dict[tuple[Parts, frozenset[tuple[Parts, str]]], list[Parts]]:
    """Modules at `level` by their parent and full contents, in natural order."""
    modules: dict[Parts, set[tuple[Parts, str]]] = defaultdict(set)
    for parts, kind in leaves.items():
        if len(parts) > level + 1:
            modules[parts[: level + 1]].add((parts[level + 1 :], kind))
    found = defaultdict(list)
    for module in sorted(modules, key=natural):
        found[module[:level], frozenset(modules[module])].append(module)
    return found


def speller(known: Sequence[str]) -> Callable[[str], str | None]:
    """A function that finds the path in `known` most similar to a given one, for the first `MAX_NEAREST` calls."""
    by_leaf: dict[str, list[str]] = defaultdict(list)
    for name in known:
        by_leaf[name.rpartition("/")[2]].append(name)
    for paths in by_leaf.values():
        paths.sort()
    everything = sorted(known)
    asked = 0

    def spell(path: str) -> str | None:
        nonlocal asked
        asked += 1
        if asked > MAX_NEAREST:
            return None
        candidates = by_leaf.get(path.rpartition("/")[2], everything)
        # Too many to compare them all: take its neighbours in sort order, which share its prefix.
        start = max(bisect.bisect(candidates, path) - MAX_CANDIDATES // 2, 0)
        return nearest(path, candidates[start : start + MAX_CANDIDATES])

    return spell
