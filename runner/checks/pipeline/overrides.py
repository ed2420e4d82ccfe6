"""Overrides of axis names by path, as T5X has them: a leaf that meets none keeps the names that its layer gives it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from runner.bridge.rules.leaves import NamedLeaf
from runner.bridge.rules.patterns import RuleList
from runner.checks.pipeline.findings import Findings, Replaced, names, regex_of
from runner.errors import listed

COMPARE = "bridge-runner diff OLD NEW rules=… rules.match=override  # which says for which leaf each was"


def lost(rules: RuleList, unmet: Sequence[NamedLeaf], replaced: Replaced, found: Findings) -> None:
    """Warns of the leaves among `unmet` that are in the place of one that meets an override."""
    for leaf in unmet:
        old = replaced.get(leaf.name)
        num = None if old is None else rules.first(old.text(fullmatch=True))
        if old is None or num is None:
            continue
        text = f"{leaf.name} meets no override, where {old.name} in its place meets {rules.said(num)}"
        found.limits.append((text, f"({regex_of([leaf])!r}, {tuple(rules.rules[num].value)!r}),  # one more override"))


def idle(rules: RuleList, leaves: Sequence[NamedLeaf], found: Findings) -> None:
    """Warns of overrides for the layer's place that nothing meets, where a leaf of the layer meets none."""
    unmet = [leaf for leaf in leaves if leaf.is_own and rules.first(leaf.text(fullmatch=True)) is None]
    texts, places = [leaf.text(fullmatch=True) for leaf in leaves], _places(leaves)
    patterns = [
        rule.pattern
        for rule in rules.rules
        if (alone := dataclasses.replace(rules, rules=(rule,)))
        and not any(alone.first(text) == 0 for text in texts)
        and _is_for(rule.pattern, places)
    ]
    if unmet and patterns:
        said = f"{listed([repr(one) for one in patterns])} {'matches' if len(patterns) == 1 else 'match'} nothing"
        meet = "meets no override and keeps its" if len(unmet) == 1 else "meet no override and keep their"
        found.limits.append((f"{said}, and {names(unmet)} of the layer {meet} own axis names", COMPARE))


def _places(leaves: Sequence[NamedLeaf]) -> set[str]:
    """The modules under which only leaves of the layer are."""
    own, others = ({"/".join(parents) for leaf in leaves if leaf.is_own is mine for parents in _parents(leaf)}
                   for mine in (True, False))  # fmt: skip
    return own - others


def _parents(leaf: NamedLeaf) -> list[list[str]]:
    parts = leaf.text(fullmatch=True).split("/")
    return [parts[:num] for num in range(1, len(parts))]


def _is_for(pattern: str, places: set[str]) -> bool:
    """Whether the regex, up to one of its slashes, is one of `places`, and not anything."""
    parts = pattern.split("/")
    for num in range(1, len(parts)):
        try:
            beginning = re.compile("/".join(parts[:num]))
        except re.error:  # cut in a group
            continue
        if not beginning.fullmatch("\0/\0") and any(map(beginning.fullmatch, places)):
            return True
    return False
