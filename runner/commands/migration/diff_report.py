"""What `diff` found, as text: the table, what moved as a whole, names, boxes, and the proof."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.arrays.tree_diff import Kind, LeafDiff, prefix_moves

# Longer tables show only the rows that differ.
MAX_ROWS = 40

# Leaves that move with their module are rows of their own up to this number, if they stay as deep as they were.
MAX_MOVED_ROWS = 2


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that `diff` prints.

    Attributes:
      labels: The two sides, as they were typed.
      leaves: The leaves of both trees.
      names: Paths that Linen gives to modules now, and how to give them the names in the old tree.
      why: Why names are needed.
      remains: What the names alone leave: old and new prefix of what is deeper now.
      boxes: Lines on the boxes.
      rules: Lines on the pipeline's rules.
      proof: The lines of the proof.
    """

    labels: tuple[str, str]
    leaves: Sequence[LeafDiff]
    names: Mapping[str, str]
    why: str
    remains: Sequence[tuple[str, str]] = ()
    boxes: Sequence[str] = ()
    rules: Sequence[str] = ()
    proof: Sequence[str]


def describe(found: Findings) -> list[str]:
    """The lines to print."""
    counts = Counter(item.kind for item in found.leaves)
    lines = [f"old  {found.labels[0]}", f"new  {found.labels[1]}", ""]
    rows = _rows(found.leaves)
    widths = [max((len(row[index]) for row in rows), default=0) for index in range(3)]
    lines += ["  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows]
    lines += [", ".join(f"{number} {kind}" for kind, number in counts.items()) or "no leaves"]
    return [*lines, *_advice(found), *found.boxes, *found.rules, "", *found.proof]


def whole_moves(leaves: Sequence[LeafDiff]) -> dict[tuple[str, str], list[LeafDiff]]:
    """The moves that are one line each: of many leaves, or to another depth."""
    return {
        pair: items
        for pair, items in prefix_moves(leaves).items()
        if len(items) > MAX_MOVED_ROWS or pair[0].count("/") != pair[1].count("/")
    }


def _advice(found: Findings) -> list[str]:
    lines = []
    if found.names:
        lines += ["", f"{found.why} Give these names in the new host:"]
        width = max(len(path) for path in found.names)
        lines += [f"  {path:<{width}}  {name}" for path, name in found.names.items()]
        if found.remains:
            moves = ", ".join(f"{old}/* → {new}/*" for old, new in found.remains)
            lines.append(f"With these names, this is left: {moves}")
        lines.append("or rename the old checkpoint: the same command with --apply")
    elif any(item.kind == Kind.moved for item in found.leaves):
        lines += ["", "Rename the old checkpoint: the same command with --apply"]
    return lines


def _rows(leaves: Sequence[LeafDiff]) -> list[tuple[str, str, str, str]]:
    together = whole_moves(leaves)
    heads = {id(items[0]): pair for pair, items in together.items()}
    rest = {id(item) for items in together.values() for item in items[1:]}
    shown = [item for item in leaves if item.kind != Kind.same or len(leaves) <= MAX_ROWS]
    rows: list[tuple[str, str, str, str]] = []
    for item in shown:
        if item.kind != Kind.moved or id(item) not in heads.keys() | rest:
            rows.append((item.kind, *_where(item), _kinds(item)))
        elif id(item) in heads:
            (old, new), num = heads[id(item)], len(together[heads[id(item)]])
            rows.append((item.kind, f"{old}/*", f"→ {new}/*", f"({num} {'leaf' if num == 1 else 'leaves'})"))
    return rows


def _where(item: LeafDiff) -> tuple[str, str]:
    if item.kind == Kind.missing:
        return str(item.new), f"nearest {item.nearest}" if item.nearest else ""
    return str(item.old), f"→ {item.new}" if item.new and item.new != item.old else ""


def _kinds(item: LeafDiff) -> str:
    if item.kind == Kind.boxed or (item.was and item.wanted and item.was != item.wanted):
        return f"{item.was}, wanted {item.wanted}"
    return str(item.was or item.wanted)
