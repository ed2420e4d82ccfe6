"""Partition rules: which rule every leaf meets, and whether its spec fits the leaf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from runner.bridge.rules import patterns
from runner.bridge.rules.leaves import NamedLeaf
from runner.bridge.rules.patterns import RuleList
from runner.checks.pipeline import overrides
from runner.checks.pipeline.findings import Findings, Replaced, names, regex_of
from runner.errors import listed

WITHOUT_BOX = "bridge.to_linen(…, metadata_fn=None)  # without the box, which adds /value to the path"


def judge(rules: RuleList, leaves: Sequence[NamedLeaf], replaced: Replaced, found: Findings) -> None:
    """Adds to `found` what the partition `rules` do with `leaves`; scalars are exempt, as in EasyLM."""
    judged = [leaf for leaf in leaves if rules.overrides or not leaf.is_scalar]
    met = {leaf.name: rules.first(leaf.text(fullmatch=rules.fullmatch)) for leaf in judged}
    found.evidence["partition"] = {name: None if num is None else rules.said(num) for name, num in met.items()}
    unmet = [leaf for leaf in judged if met[leaf.name] is None]
    if rules.overrides:
        overrides.lost(rules, unmet, replaced, found)
    else:
        _none(rules, unmet, found)
    for num in range(len(rules.rules)):
        group = [leaf for leaf in judged if met[leaf.name] == num]
        _rank(rules, num, group, found)
        _later(rules, num, {leaf.name: leaf for leaf in group}, replaced, found)
    if rules.overrides:
        text = f"{len(judged) - len(unmet)} of {len(judged)} leaves meet an override of their axis names"
        found.said.append(text)
        return
    caught = [leaf for leaf in judged if (met_by := met[leaf.name]) is not None and rules.is_catch_all(met_by)]
    _say(rules, judged, caught, found)


def unused(rules: RuleList, old: Iterable[NamedLeaf], new: Iterable[NamedLeaf], found: Findings) -> None:
    """Adds the rules that leaves of the old tree meet, and none of the new one."""
    before, after = (
        {rules.first(leaf.text(fullmatch=rules.fullmatch)) for leaf in side if not leaf.is_scalar}
        for side in (old, new)
    )
    lost = [repr(rules.rules[num].pattern) for num in sorted(one for one in before - after if one is not None)]
    if lost:
        text = f"{listed(lost)} {'matches' if len(lost) == 1 else 'match'} nothing any more"
        found.limits.append((text, None))
        found.evidence["unused"] = lost


def _none(rules: RuleList, unmet: Sequence[NamedLeaf], found: Findings) -> None:
    if not unmet:
        return
    if all(leaf.path != leaf.plain and _plainly(rules, leaf) is not None for leaf in unmet):
        fix = WITHOUT_BOX
    else:
        lines = [f"({regex_of([leaf])!r}, {_spec(leaf)}),  # one more rule" for leaf in unmet]
        fix = "\n".join(dict.fromkeys(lines))
    text = f"{names(unmet)} {'meets' if len(unmet) == 1 else 'meet'} no rule, for which EasyLM raises an error"
    found.wrong.append((text.replace(", for which EasyLM raises an error", "") if rules.fullmatch else text, fix))


def _rank(rules: RuleList, num: int, leaves: Sequence[NamedLeaf], found: Findings) -> None:
    wanted = patterns.num_axes(rules.rules[num].value)
    short = [leaf for leaf in leaves if wanted is not None and _is_short(rules, len(leaf.shape), wanted)]
    for rank in sorted({len(leaf.shape) for leaf in short}):
        group = [leaf for leaf in short if len(leaf.shape) == rank]
        has = f"{'has' if len(group) == 1 else 'have'} {rank} {'axis' if rank == 1 else 'axes'}"
        text = f"{names(group)} {has}, and the rule {rules.said(num)} is for {wanted}"
        found.wrong.append((text, _lines(group, _spec(group[0]))))


def _is_short(rules: RuleList, rank: int, wanted: int) -> bool:
    """Whether an array has too few axes for a spec; T5X raises an error for too many names and for too few."""
    return rank != wanted if rules.overrides else rank < wanted


def _later(rules: RuleList, num: int, leaves: Mapping[str, NamedLeaf], replaced: Replaced, found: Findings) -> None:
    """Warns of leaves that meet a later rule than those in whose place they are, and so another spec."""
    places = {name: replaced[name].text(fullmatch=rules.fullmatch) for name in leaves if name in replaced}
    before = {name: rules.first(place) for name, place in places.items()}
    for earlier in sorted({one for one in before.values() if one is not None and one < num}):
        if rules.rules[earlier].value == rules.rules[num].value:
            continue
        group = [leaf for name, leaf in leaves.items() if before.get(name) == earlier]
        old, one = replaced[group[0].name], len(group) == 1
        only = "only the catch-all" if rules.is_catch_all(num) else "the rule"
        their = "its" if one else "their"
        was = f"without {their} box" if old.name == group[0].plain_name else f"{old.name} in {their} place"
        text = f"{names(group)} {'meets' if one else 'meet'} {only} {rules.said(num)}, where {was} meets"
        boxed = all(leaf.path != leaf.plain and _plainly(rules, leaf) == earlier for leaf in group)
        spec = patterns.spelled(rules.rules[earlier].value).replace("P(", "PartitionSpec(", 1)
        found.limits.append((f"{text} {rules.said(earlier)}", WITHOUT_BOX if boxed else _lines(group, spec)))


def _lines(leaves: Sequence[NamedLeaf], spec: str) -> str:
    """Rules that give the leaves this spec; the layers of a stack share one."""
    lines = [f"({regex_of([leaf])!r}, {spec}),  # before that rule" for leaf in leaves]
    return "\n".join(dict.fromkeys(lines))


def _say(rules: RuleList, judged: Sequence[NamedLeaf], caught: Sequence[NamedLeaf], found: Findings) -> None:
    own = [leaf for leaf in caught if leaf.is_own]
    text = (
        f"each of {len(judged)} leaves meets a partition rule"
        if len(judged) != 1
        else "the leaf meets a partition rule"
    )
    if own:
        last = next(num for num in range(len(rules.rules)) if rules.is_catch_all(num))
        text += f" ({names(own)} of the layer only the catch-all {rules.said(last)})"
    found.said.append(text)


def _plainly(rules: RuleList, leaf: NamedLeaf) -> int | None:
    return rules.first(leaf.text(fullmatch=rules.fullmatch, boxed=False))


def _spec(leaf: NamedLeaf) -> str:
    return f"PartitionSpec({', '.join(['None'] * len(leaf.shape))})"
