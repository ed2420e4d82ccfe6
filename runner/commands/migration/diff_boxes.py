"""Boxes in `diff`: a leaf that is stored as `kernel/value` is another one to every pipeline that wants `kernel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.arrays import restores, saved_trees, trees
from runner.arrays.tree_diff import Kind, LeafDiff
from runner.bridge import boxes
from runner.commands.migration.diff_sides import Side
from runner.errors import listed

# A box of which only `value` was stored.
UNKNOWN = "a box"


def marked(old: Side, new: Side, leaves: Sequence[LeafDiff]) -> list[LeafDiff]:
    """`leaves` with those as `boxed` that are stored in another box than the new model's init has.

    Where the old model's init has that box too, and the checkpoint has none, the pipeline takes it off before it saves,
    as MaxText does: of the new model as well.
    """
    before, after = _boxes(old, new), _boxes(new, old)
    if before is None or after is None:
        return list(leaves)
    made = {} if old.saved is None or old.needs is None else boxes.box_names(old.needs.variables)
    return [
        _marked(item, before.get(str(item.old)), after.get(str(item.new)), made.get(str(item.old))) for item in leaves
    ]


def lines(old: Side, new: Side, leaves: Sequence[LeafDiff]) -> list[str]:
    """What restores a checkpoint with `boxed` leaves, as tried on it; nothing if there are none."""
    boxed = [item for item in leaves if item.kind == Kind.boxed]
    if not boxed:
        return []
    num = "1 leaf" if len(boxed) == 1 else f"{len(boxed)} leaves"
    head = f"{listed([_stored_as(old, new, str(item.old)) for item in boxed])}: {num} in another box."
    if old.saved is None or new.needs is None:
        return ["", head]
    if any(item.kind not in (Kind.boxed, Kind.same) for item in leaves):
        return ["", head, "What restores it can be tried once the names are right."]
    tried = _tried(old, new)
    width = max(map(len, tried))
    rows = [f"  {box:<{width}}  {_verdict(ways)}" for box, ways in tried.items()]
    working = [box for box, ways in tried.items() if all(ways.values())]
    end = f"The box that restores it: {' or '.join(_own_first(old, working))}" if working else "No box restores it."
    return ["", f"{head} Restored into a target of", *rows, end, *_advice(old, new)]


def boxed_like(tree: Any, new: Side) -> Any:
    """`tree` as a checkpoint of the new model stores it: with a `value` where its init has a box."""
    wanted = {} if new.needs is None else boxes.box_names(new.needs.variables)
    pairs = trees.flatten(tree)
    return trees.nest(((*path, "value") if wanted.get(trees.spell(path)) else path, leaf) for path, leaf in pairs)


def _boxes(side: Side, other: Side) -> Mapping[str, str | None] | None:
    """The box around every leaf as it is stored, else as init gives it; None for a run, which is saved without."""
    own = None if side.needs is None else boxes.box_names(side.needs.variables)
    if side.is_run:
        return None
    if side.saved is None:
        return own
    stored = _stored_boxed(side, other)
    names = [trees.spell(path) for path, _ in trees.flatten(side.variables)]
    return {name: ((own or {}).get(name) or UNKNOWN) if name in stored else None for name in names}


def _stored_boxed(side: Side, other: Side) -> set[str]:
    assert side.saved is not None
    models = [one.needs.variables for one in (side, other) if one.needs is not None]
    return {trees.spell(path[:-1]) for path in saved_trees.boxed_paths(side.saved.variables, models)}


def _stored_as(old: Side, new: Side, name: str) -> str:
    boxed = old.saved is not None and name in _stored_boxed(old, new)
    return f"{name}/value" if boxed else name


def _marked(item: LeafDiff, before: str | None, after: str | None, made: str | None) -> LeafDiff:
    alike = before == after or (UNKNOWN in (before, after) and before is not None and after is not None)
    taken_off = before is None and after is not None and made == after
    if item.kind not in (Kind.same, Kind.moved) or alike or taken_off:
        return item
    return replace(item, kind=Kind.boxed, was=f"{item.was} in {before or 'no box'}", wanted=after or "no box")


def _tried(old: Side, new: Side) -> dict[str, dict[str, bool]]:
    assert old.saved is not None
    assert new.needs is not None
    targets = boxes.restore_targets(new.needs.variables, _stored_boxed(old, new))
    return {box: restores.restoring(old.saved, target) for box, target in targets.items()}


def _own_first(old: Side, working: Sequence[str]) -> list[str]:
    """The box that the old model has, before others that restore as well but give other metadata."""
    own = set() if old.needs is None else set(boxes.box_names(old.needs.variables).values())
    return sorted(working, key=lambda box: box not in own)


def _advice(old: Side, new: Side) -> list[str]:
    assert new.needs is not None
    lines = ["Write it as the new model's init wants it: the same command with --apply"]
    if boxes.NNX in boxes.box_names(new.needs.variables).values():
        own = [] if old.needs is None else [name for name in boxes.box_names(old.needs.variables).values() if name]
        if fix := boxes.KEEPING.get(own[0] if own else boxes.PLAIN):
            lines.append(f"or keep the old box: bridge.to_linen(…, {fix})")
    return lines


def _verdict(ways: Mapping[str, bool]) -> str:
    return ", ".join(f"{way}: {'yes' if works else 'no'}" for way, works in ways.items())
