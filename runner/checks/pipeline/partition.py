"""Partition rules: which rule every leaf meets, and whether its spec fits the leaf."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runner.bridge.rules import patterns
from runner.bridge.rules.leaves import NamedLeaf
from runner.bridge.rules.patterns import RuleList
from runner.checks.pipeline.findings import Findings, Replaced, names, regex_of
from runner.errors import listed

WITHOUT_BOX = "bridge.to_linen(…, metadata_fn=None)  # without the box, which adds /value to the path"


def judge(rules: RuleList, leaves: Sequence[NamedLeaf], replaced: Replaced, found: Findings) -> None:
    """Adds to `found` what the partition `rules` do with `leaves`; scalars are exempt, as in EasyLM."""
    judged = [leaf for leaf in leaves if not leaf.is_scalar]
    met = {leaf.name: rules.first(leaf.text(fullmatch=rules.fullmatch)) for leaf in judged}
    found.evidence["partition"] = {name: None if num is None else rules.said(num) for name, num in met.items()}
    _none(rules, [leaf for leaf in judged if met[leaf.name] is None], found)
    caught = []
    for leaf in judged:
        num = met[leaf.name]
        if num is None:
            continue
        _rank(rules, num, leaf, found)
        caught += [leaf] if rules.is_catch_all(num) else []
        if old := replaced.get(leaf.name):
            _later(rules, num, leaf, old, found)
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
        fix = "\n".join(f"({regex_of([leaf])!r}, {_spec(leaf)}),  # one more rule" for leaf in unmet[:3])
    text = f"{names(unmet)} {'meets' if len(unmet) == 1 else 'meet'} no rule, for which EasyLM raises an error"
    found.wrong.append((text.replace(", for which EasyLM raises an error", "") if rules.fullmatch else text, fix))


def _rank(rules: RuleList, num: int, leaf: NamedLeaf, found: Findings) -> None:
    wanted = patterns.num_axes(rules.rules[num].value)
    if wanted is None or wanted <= len(leaf.shape):
        return
    rank = f"{len(leaf.shape)} {'axis' if len(leaf.shape) == 1 else 'axes'}"
    fix = f"({regex_of([leaf])!r}, {_spec(leaf)}),  # before that rule"
    found.wrong.append((f"{leaf.name} has {rank}, and its rule {rules.said(num)} is for {wanted}", fix))


def _later(rules: RuleList, num: int, leaf: NamedLeaf, old: NamedLeaf, found: Findings) -> None:
    """Warns of a leaf that meets a later rule than the one in whose place it is, and so another spec."""
    earlier = rules.first(old.text(fullmatch=rules.fullmatch))
    if earlier is None or earlier >= num or rules.rules[earlier].value == rules.rules[num].value:
        return
    only = "only the catch-all" if rules.is_catch_all(num) else "the rule"
    was = "without its box" if old.name == leaf.plain_name else f"{old.name} in its place"
    text = f"{leaf.name} meets {only} {rules.said(num)}, where {was} meets {rules.said(earlier)}"
    boxed = leaf.path != leaf.plain and _plainly(rules, leaf) == earlier
    spec = patterns.spelled(rules.rules[earlier].value).replace("P(", "PartitionSpec(", 1)
    found.limits.append((text, WITHOUT_BOX if boxed else f"({regex_of([leaf])!r}, {spec}),  # before that rule"))


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
