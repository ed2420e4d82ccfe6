"""Rules by path in `diff`: what the pipeline's rules and masks do with the new names, where they knew the old ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runner.arrays.tree_diff import LeafDiff
from runner.bridge.rules.leaves import NamedLeaf, named_leaves
from runner.bridge.rules.sources import PathRules
from runner.checks.pipeline import rules as checked
from runner.checks.pipeline.findings import Findings, names
from runner.commands.migration.diff_sides import Side
from runner.records.record import Check, Verdict


def judge(rules: PathRules, old: Side, new: Side, leaves: Sequence[LeafDiff]) -> Check:
    """What `rules` do with the leaves of the new tree, as compared with the old one's in their places."""
    before, after = _leaves(old), _leaves(new)
    found = Findings()
    checked.judge(rules, _variables(new), after, _replaced(leaves, before, after), found, old=(_variables(old), before))
    if rules.partition is not None:
        partition = rules.partition
        unmet = [one for one in before if not one.is_scalar and _met(partition, one) is None]
        if unmet and not partition.overrides:
            meet = "meets" if len(unmet) == 1 else "meet"
            found.limits.append((f"in the old tree too {names(unmet)} {meet} no rule: are these its rules?", None))
        found.evidence["old_partition"] = {
            one.name: None if (num := _met(partition, one)) is None else partition.said(num) for one in before
        }
    return found.verdict(checked.NAME)


def lines(check: Check | None) -> list[str]:
    """The check as `diff` prints it."""
    if check is None:
        return []
    first, *more = (check.fix or "").splitlines() or [""]
    fix = [f"  fix  {first}", *(f"       {line}" for line in more)] if first else []
    mark = "" if check.verdict is Verdict.passed else f"{check.verdict.value}: "
    parts = [*check.detail.split("; "), *(check.evidence.get("limits") or [])]
    return ["", f"rules: {mark}{parts[0]}", *(f"       {part}" for part in parts[1:]), *fix]


def _met(rules: Any, leaf: NamedLeaf) -> int | None:
    met: int | None = rules.first(leaf.text(fullmatch=rules.fullmatch))
    return met


def _variables(side: Side) -> Any:
    """As the side's model stores them, with boxes; a bare checkpoint's are without."""
    return side.shapes if side.needs is None else side.needs.variables


def _leaves(side: Side) -> list[NamedLeaf]:
    variables = _variables(side)
    if side.model is not None and side.needs is not None:
        try:
            return named_leaves(variables, side.model, side.needs.streams, side.x)
        except Exception:  # noqa: BLE001 - a host that is traced in a mode of its own
            return named_leaves(variables)
    return named_leaves(variables)


def _replaced(
    leaves: Iterable[LeafDiff], before: Sequence[NamedLeaf], after: Sequence[NamedLeaf]
) -> dict[str, NamedLeaf]:
    """The old leaf in whose place each new one is: the same one, or what is gone from the nearest module."""
    old = {one.plain_name: one for one in before}
    pairs = {str(item.new): old[item.old] for item in leaves if item.new and item.old in old}
    used = {one.plain_name for one in pairs.values()}
    gone = [one for one in before if one.plain_name not in used]
    left = list(gone)
    found = {}
    for leaf in after:
        place = pairs.get(leaf.plain_name) or _nearest(leaf, left) or _nearest(leaf, gone)
        if place is not None:
            found[leaf.name] = place
            left = [one for one in left if one is not place]
    return found


def _nearest(leaf: NamedLeaf, gone: Sequence[NamedLeaf]) -> NamedLeaf | None:
    """What is gone of the same kind from the module nearest to the leaf's."""
    alike = [one for one in gone if one.plain[0] == leaf.plain[0] and one.own_rank == leaf.own_rank]
    alike = [one for one in alike if one.shape == leaf.shape] or alike
    return max(alike, key=lambda one: _common(one.plain, leaf.plain), default=None)


def _common(one: Sequence[Any], two: Sequence[Any]) -> int:
    depth = 0
    while depth < min(len(one), len(two)) and str(one[depth]) == str(two[depth]):
        depth += 1
    return depth
