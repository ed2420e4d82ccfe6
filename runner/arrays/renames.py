"""Compares two variable trees leaf by leaf. Pure.

A tree is nested dicts with arrays or `jax.ShapeDtypeStruct` as leaves; the old one is what exists, the new one what
is expected. Paths are compared as strings: a checkpoint restores integer keys as strings.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.arrays import trees
from runner.arrays.trees import Path

SAME, CAST, RESHAPED, MOVED = "same", "cast", "reshaped", "moved"
BOXED, MISSING, EXTRA = "boxed", "missing", "extra"

# Finding the nearest name compares with every other one: slow in a tree of thousands, and of no help there.
MAX_NEAREST = 500


@dataclass(frozen=True, kw_only=True)
class LeafDiff:
    """A leaf of either tree.

    Attributes:
      kind: same, cast (another dtype), reshaped, moved (same array, another path), boxed (same array, another
        metadata box around it), missing (only in the new tree) or extra (only in the old tree).
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
      renames: Known renames, old path to new path, as `alignment.align` finds them.
    """
    renames = renames or {}
    there, wanted = _named(old), _named(new)
    by_new = {name: name for name in there if name not in renames}
    by_new |= {other: name for name, other in renames.items() if name in there}
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


def prefix_moves(found: Sequence[LeafDiff]) -> dict[tuple[str, str], list[LeafDiff]]:
    """Moved leaves by the prefixes that alone differ, `params` and `params/net`; only where the whole old one moved."""
    groups: dict[tuple[str, str], list[LeafDiff]] = defaultdict(list)
    for item in found:
        if item.old and item.new and item.old != item.new:
            groups[_prefixes(item.old, item.new)].append(item)
    below: Counter[str] = Counter()
    for item in found:
        parts = (item.old or "").split("/")
        below.update("/".join(parts[:cut]) for cut in range(1, len(parts)))
    return {pair: items for pair, items in groups.items() if below[pair[0]] == len(items)}


def _prefixes(old: str, new: str) -> tuple[str, str]:
    one, two = old.split("/"), new.split("/")
    # The collection and the leaf's own name stay where they are.
    while len(one) > 1 and len(two) > 1 and one[-1] == two[-1]:
        one.pop()
        two.pop()
    return "/".join(one), "/".join(two)
