"""Diffs two variable trees leaf by leaf. Pure, and fast enough for ten thousand leaves.

A tree is nested dicts with arrays or `jax.ShapeDtypeStruct` as leaves; the old one is what exists, the new one what
is expected. Paths are compared as strings: a checkpoint restores integer keys as strings. Metadata boxes don't count.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.arrays import tree_moves, trees
from runner.arrays.tree_moves import Moves, Parts, kind, natural
from runner.arrays.trees import Path


class Kind(enum.StrEnum):
    """What became of a leaf.

    same; cast: another dtype; reshaped: another shape; moved: the same array at another path; boxed: the same array
    in another metadata box; missing: only in the new tree; extra: only in the old one.
    """

    same = "same"
    cast = "cast"
    reshaped = "reshaped"
    moved = "moved"
    boxed = "boxed"
    missing = "missing"
    extra = "extra"


@dataclass(frozen=True, kw_only=True)
class LeafDiff:
    """A leaf of either tree.

    Attributes:
      kind: What became of it.
      old: Its path in the old tree, or None.
      new: Its path in the new tree, or None.
      was: Dtype and shape in the old tree: `float32[4,8]`.
      wanted: The same in the new tree.
      nearest: For a missing leaf, the extra one with the most similar name; for an extra one, the missing.
    """

    kind: Kind
    old: str | None = None
    new: str | None = None
    was: str | None = None
    wanted: str | None = None
    nearest: str | None = None

    @property
    def path(self) -> str:
        """Where it is wanted, or where an extra leaf is."""
        return self.new if self.new is not None else str(self.old)


@dataclass(frozen=True, kw_only=True)
class TreeDiff:
    """The leaves of both trees, in the order of the new one, then what is only in the old one."""

    leaves: Sequence[LeafDiff]

    @property
    def changed(self) -> list[LeafDiff]:
        """The leaves that are not the same, by their paths: `Dense_10` after `Dense_2`."""
        found = [leaf for leaf in self.leaves if leaf.kind is not Kind.same]
        return sorted(found, key=lambda leaf: natural(leaf.path.split("/")))


def diff_trees(
    old: Any,
    new: Any,
    renames: Mapping[str, str] | None = None,
    *,
    moves: Callable[[Mapping[str, Any], Mapping[str, Any]], Moves] = tree_moves.certain,
) -> TreeDiff:
    """How `new` differs from `old`.

    Args:
      old: The existing tree.
      new: The expected tree.
      renames: Known renames, old path to new path, as `alignment.align` finds them.
      moves: Finds missing leaves among the extra ones: `tree_moves.certain`, or `tree_moves.likely` to tell a person.
    """
    renames = renames or {}
    there, wanted = _by_name(old), _by_name(new)
    sources = {name: name for name in there if name not in renames}
    sources |= {other: name for name, other in renames.items() if name in there}
    sources |= moves(
        {name: leaf for name, leaf in wanted.items() if name not in sources},
        {name: leaf for name, leaf in there.items() if renames.get(name, name) not in wanted},
    )
    used = {name for target, name in sources.items() if target in wanted}
    lost, surplus = [name for name in wanted if name not in sources], [name for name in there if name not in used]
    near_surplus, near_lost = tree_moves.speller(surplus), tree_moves.speller(lost)

    def leaf_diff(name: str, leaf: Any) -> LeafDiff:
        source = sources.get(name)
        if source is None:
            return LeafDiff(kind=Kind.missing, new=name, wanted=kind(leaf), nearest=near_surplus(name))
        was, want = kind(there[source]), kind(leaf)
        change = _change(was, want)
        what = Kind.moved if change is Kind.same and source != name else change
        return LeafDiff(kind=what, old=source, new=name, was=was, wanted=want)

    kept = [leaf_diff(name, leaf) for name, leaf in wanted.items()]
    extra = [LeafDiff(kind=Kind.extra, old=name, was=kind(there[name]), nearest=near_lost(name)) for name in surplus]
    return TreeDiff(leaves=[*kept, *extra])


def rename(tree: Any, renames: Mapping[str, str]) -> Any:
    """Moves every leaf of `tree` to its new path."""
    return trees.nest((_path(renames.get(trees.spell(path), ""), path), leaf) for path, leaf in trees.flatten(tree))


def leaf_kinds(tree: Any) -> dict[Parts, str]:
    """Dtype and shape of every leaf by its path, e.g. `float32[4,8]`; boxes are unwrapped."""
    return {tuple(map(str, path)): kind(leaf) for path, leaf in trees.flatten(tree)}


def _by_name(tree: Any) -> dict[str, Any]:
    return {trees.spell(path): leaf for path, leaf in trees.flatten(tree)}


def _path(new: str, old: Path) -> Path:
    return tuple(new.split("/")) if new else old


def _change(was: str, want: str) -> Kind:
    if was == want:
        return Kind.same
    return Kind.cast if was.partition("[")[2] == want.partition("[")[2] else Kind.reshaped


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
