"""Compares two variable trees, and traces renames back to Linen's numbering of unnamed modules. Pure.

A tree is nested dicts with arrays or `jax.ShapeDtypeStruct` as leaves; the old one is what exists, the new one what
is expected. Paths are compared as strings: a checkpoint restores integer keys as strings.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.arrays import trees
from runner.arrays.trees import Path

SAME, CAST, RESHAPED, MOVED, MISSING, EXTRA = "same", "cast", "reshaped", "moved", "missing", "extra"

# Linen names an unnamed module after its class, with a counter.
AUTO_NAME = re.compile(r"(\w+)_(\d+)")
WRAPPED = "ToLinen"

# Finding the nearest name compares with every other one: slow in a tree of thousands, and of no help there.
MAX_NEAREST = 500

# Kept times wrapped modules of one class: beyond that, matching them takes too long.
MAX_MERGED = 10**6


@dataclass(frozen=True, kw_only=True)
class LeafDiff:
    """A leaf of either tree.

    Attributes:
      kind: same, cast (another dtype), reshaped, moved (same array, another path), missing (only in the new tree)
        or extra (only in the old tree).
      old: Its path in the old tree, or None.
      new: Its path in the new tree, or None.
      was: Dtype and shape in the old tree: `float32[4,8]`.
      wanted: The same in the new tree.
      nearest: For a missing leaf, the extra one with the most similar name.
    """

    kind: str
    old: str | None = None
    new: str | None = None
    was: str | None = None
    wanted: str | None = None
    nearest: str | None = None


def compare(old: Any, new: Any, renames: Mapping[str, str] | None = None) -> list[LeafDiff]:
    """Every leaf of both trees, in the order of the new one, then what is only in the old one.

    A missing leaf counts as moved if exactly one extra leaf has its shape, dtype and last name, and, if both
    trees hold arrays, its bits.

    Args:
      old: The existing tree.
      new: The expected tree.
      renames: Known renames, old path to new path, as found by `counted_anew`.
    """
    renames = renames or {}
    there, wanted = _named(old), _named(new)
    by_new = {renames.get(name, name): name for name in there}
    moved = _moves(
        {name: leaf for name, leaf in there.items() if renames.get(name, name) not in wanted},
        {name: leaf for name, leaf in wanted.items() if name not in by_new},
    )
    by_new |= moved
    used = {name for target, name in by_new.items() if target in wanted}
    extra = [name for name in there if name not in used]
    found = []
    for name, leaf in wanted.items():
        source = by_new.get(name)
        if source is None:
            near = difflib.get_close_matches(name, extra, 1, 0.5) if len(extra) <= MAX_NEAREST else []
            found.append(LeafDiff(kind=MISSING, new=name, wanted=kind(leaf), nearest=near[0] if near else None))
            continue
        change = _change(there[source], leaf)
        found.append(
            LeafDiff(
                kind=change if change != SAME or source == name else MOVED,
                old=source,
                new=name,
                was=kind(there[source]),
                wanted=kind(leaf),
            )
        )
    return found + [LeafDiff(kind=EXTRA, old=name, was=kind(there[name])) for name in extra]


def counted_anew(old: Any, new: Any, order: Sequence[Sequence[str]] = ()) -> dict[str, str]:
    """Maps old paths to new ones where a wrapped layer replaced an unnamed module, so that later ones were renumbered.

    `Dense_0, Dense_1, Dense_2` becomes `Dense_0, ToLinen_0, Dense_1` when the second one is replaced. Among the
    siblings, the new modules of one class and the wrapped ones together, in creation order, match the old modules of
    that class, if their number and all their leaves agree.

    Args:
      old: The existing tree.
      new: The expected tree.
      order: Module paths in the order in which the new model creates them; without it, every order is tried
        that keeps the numbering of each class, and one is accepted only if no other fits.
    """
    there, wanted = _split(old), _split(new)
    renames: dict[str, str] = {}
    for parent in {path[:-1] for path in _modules(wanted) if _auto(path[-1])}:
        before, after = _siblings(there, parent), _siblings(wanted, parent)
        for pairs in _pairings(before, after, [path[-1] for path in order if tuple(path[:-1]) == parent[1:]]):
            renames |= _leaf_renames(there, parent, pairs)
    return renames


def module_names(renames: Mapping[str, str]) -> dict[str, str]:
    """Modules that need an explicit name: maps the path that Linen gives now to the name in the old tree."""
    names: dict[str, str] = {}
    for old, new in renames.items():
        parts = new.split("/")
        for index, (one, two) in enumerate(zip(old.split("/"), parts, strict=True)):
            if one != two:
                names["/".join(parts[1 : index + 1])] = one
    return names


def rename(tree: Any, renames: Mapping[str, str]) -> Any:
    """Moves every leaf of `tree` to its new path."""
    return trees.nest((_path(renames.get(trees.spell(path), ""), path), leaf) for path, leaf in trees.flatten(tree))


def kind(leaf: Any) -> str:
    """Dtype and shape: `float32[4,8]`."""
    value = trees.unbox(leaf)
    return f"{np.dtype(value.dtype).name if not _is_key(value) else value.dtype}[{','.join(map(str, value.shape))}]"


def _is_key(leaf: Any) -> bool:
    return not isinstance(leaf.dtype, np.dtype)


def _named(tree: Any) -> dict[str, Any]:
    return {trees.spell(path): leaf for path, leaf in trees.flatten(tree)}


def _path(new: str, old: Path) -> Path:
    return tuple(new.split("/")) if new else old


def _change(old: Any, new: Any) -> str:
    one, two = kind(old), kind(new)
    if one == two:
        return SAME
    return CAST if one.partition("[")[2] == two.partition("[")[2] else RESHAPED


def _moves(extra: Mapping[str, Any], missing: Mapping[str, Any]) -> dict[str, str]:
    """Maps new paths to old ones for leaves with exactly one match on each side."""
    found: dict[str, str] = {}
    for looks in (_looks_with_bits, _looks):
        sides = []
        for side in (extra, missing):
            groups = defaultdict(list)
            for name, leaf in side.items():
                if name not in found and name not in found.values() and (look := looks(name, leaf)) is not None:
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


Modules = dict[tuple[str, ...], dict[str, str]]


def _split(tree: Any) -> Modules:
    """Dtypes and shapes of the leaves, by the path of every module above them, then by the rest of their path."""
    found: Modules = defaultdict(dict)
    for path, leaf in trees.flatten(tree):
        parts = tuple(str(part) for part in path)
        for cut in range(1, len(parts)):
            found[parts[:cut]]["/".join(parts[cut:])] = kind(leaf)
    return found


def _modules(modules: Modules) -> list[tuple[str, ...]]:
    return [path for path in modules if len(path) > 1]


def _auto(name: str) -> bool:
    return AUTO_NAME.fullmatch(name) is not None


def _siblings(modules: Modules, parent: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """The auto-named modules directly below `parent`, by name, with their leaves."""
    return {path[-1]: leaves for path, leaves in modules.items() if path[:-1] == parent and _auto(path[-1])}


def _class(name: str) -> str:
    match = AUTO_NAME.fullmatch(name)
    return match[1] if match else name


def _count(name: str) -> int:
    match = AUTO_NAME.fullmatch(name)
    return int(match[2]) if match else 0


def _pairings(
    before: Mapping[str, dict[str, str]], after: Mapping[str, dict[str, str]], order: Sequence[str]
) -> list[dict[str, str]]:
    """Maps old names to new ones for a class with some modules replaced by wrapped layers; at most one mapping."""
    wrapped = sorted((name for name in after if _class(name) == WRAPPED), key=_count)
    if not wrapped:
        return []
    fitting = []
    for name in dict.fromkeys(_class(one) for one in before):
        old = sorted((one for one in before if _class(one) == name), key=_count)
        kept = sorted((one for one in after if _class(one) == name), key=_count)
        if len(old) != len(kept) + len(wrapped):
            continue
        known = [one for one in order if one in after and _class(one) in (name, WRAPPED)]
        if len(known) == len(old):
            num, new = int(all(before[one] == after[two] for one, two in zip(old, known, strict=True))), known
        else:
            num, new = _merge([before[one] for one in old], kept, wrapped, after)
        if num > 1:
            return []
        fitting += [dict(zip(old, new, strict=True))] if num else []
    return fitting if len(fitting) == 1 else []


def _merge(
    wanted: Sequence[Any], one: Sequence[str], two: Sequence[str], looks: Mapping[str, Any]
) -> tuple[int, list[str]]:
    """Counts merges that keep the order of `one` and `two` and match `wanted` (2: several), and returns one of them.

    Dynamic programming from the end: there are too many merges to enumerate.
    """
    if len(one) * len(two) > MAX_MERGED:
        return 2, []
    tables: list[dict[int, int]] = [{len(one): 1}]
    for position in range(len(wanted) - 1, -1, -1):
        later, here = tables[-1], {}
        for used in range(max(0, position - len(two)), min(position, len(one)) + 1):
            num = later.get(used + 1, 0) if used < len(one) and looks[one[used]] == wanted[position] else 0
            rest = position - used
            num += later.get(used, 0) if rest < len(two) and looks[two[rest]] == wanted[position] else 0
            if num:
                here[used] = min(num, 2)
        tables.append(here)
    total = tables[-1].get(0, 0)
    found: list[str] = []
    used = 0
    for position in range(len(wanted) if total else 0):
        later = tables[len(wanted) - position - 1]
        if used < len(one) and looks[one[used]] == wanted[position] and later.get(used + 1):
            found.append(one[used])
            used += 1
        else:
            found.append(two[position - used])
    return total, found


def _leaf_renames(there: Modules, parent: tuple[str, ...], pairs: Mapping[str, str]) -> dict[str, str]:
    return {
        "/".join([*parent, old, rest]): "/".join([*parent, new, rest])
        for old, new in pairs.items()
        if old != new
        for rest in there[(*parent, old)]
    }
