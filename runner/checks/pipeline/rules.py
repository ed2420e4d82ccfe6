"""rules: what the pipeline's rules and masks by path do with the layer's leaves.

A name that no rule knows falls to the catch-all and is replicated, or gets no weight decay, without a word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from runner.bridge.rules.leaves import NamedLeaf, named_leaves
from runner.bridge.rules.patterns import RuleList
from runner.bridge.rules.sources import PathRules
from runner.checks.pipeline import masks, overrides, partition
from runner.checks.pipeline.findings import Findings, Replaced, names
from runner.checks.probes.subject import Subject
from runner.checks.results import verdicts
from runner.records.record import Check

NAME = "rules"

NOTHING = "no rules are given: rules=FILE or pkg.mod:function()"

WITH_NAMES = """\
for num, layer in enumerate(layers):  # in the layer, in place of nnx.List(layers)
    setattr(self, f"layers_{num}", layer)  # and in its call: getattr(self, f"layers_{num}")"""


def is_asked(subject: Subject) -> bool:
    """Whether there are rules."""
    return subject.rules is not None


def check(subject: Subject, *, full: bool) -> Check:
    """Which rule every leaf meets, whether its spec fits, and what the masks take."""
    if subject.rules is None:
        return verdicts.skipped(NAME, NOTHING)
    variables = subject.shapes if subject.given is None else subject.needs.variables
    leaves = named_leaves(variables, subject.model, subject.needs.streams, subject.x)
    found = Findings()
    # A Linen layer in the same place has the same leaf without the box.
    twins = {leaf.name: plainly(leaf) for leaf in leaves if leaf.has_twin}
    judge(subject.rules, variables, leaves, twins, found, trained=subject.trained)
    return found.verdict(NAME)


def judge(
    rules: PathRules,
    variables: object,
    leaves: Sequence[NamedLeaf],
    replaced: Replaced,
    found: Findings,
    *,
    trained: Collection[str] = ("params",),
    old: tuple[object, Sequence[NamedLeaf]] | None = None,
) -> None:
    """Adds to `found` what `rules` do with `leaves`.

    Args:
      rules: All rules of the pipeline.
      variables: Shapes of the variables that the leaves are of.
      leaves: The leaves.
      replaced: The leaf that each is in the place of, if there is one.
      found: Where to add.
      trained: Collections that the optimiser gets.
      old: The variables and leaves that the replaced ones are of; None if they are those of Linen's twin.
    """
    keys(rules, leaves, found)
    if rules.partition is not None:
        partition.judge(rules.partition, leaves, replaced, found)
        if old is not None:
            partition.unused(rules.partition, old[1], leaves, found)
        elif rules.partition.overrides:
            overrides.idle(rules.partition, leaves, found)
    if old is None:  # a twin in another place says nothing of a mask for its own module
        placed = {leaf.name for leaf in leaves if leaf.is_placed}
        replaced = {name: leaf for name, leaf in replaced.items() if name in placed}
    for kind, mask in rules.masks.items():
        judged = [leaf for leaf in leaves if leaf.path[0] in trained]
        try:
            after = masks.masked(mask, variables, judged)
            before = (
                after
                if old is None
                else masks.masked(mask, old[0], [leaf for leaf in old[1] if leaf.path[0] in trained])
            )
        except ValueError as error:
            found.untested.append(f"the function for rules.{kind} gives {error}")
            continue
        except Exception as error:  # noqa: BLE001 - whatever the pipeline's own function raises
            found.wrong.append(
                (masks.words(error, kind), WITH_NAMES if any(leaf.integer_keys for leaf in judged) else None)
            )
            continue
        judges = {"weight_decay": masks.judge_decay, "freeze": masks.judge_freeze}
        judges[kind](after, judged, replaced, before, found)


def keys(rules: PathRules, leaves: Sequence[NamedLeaf], found: Findings) -> None:
    """Adds leaves with integer keys, which functions by path can't join; rules for numbers say that theirs can."""
    lists = [one for one in (rules.partition, *rules.masks.values()) if isinstance(one, RuleList)]
    odd = [leaf for leaf in leaves if leaf.integer_keys]
    if odd and lists and not all(any(_is_known(one, leaf) for leaf in odd) for one in lists):
        text = f"{names(odd)} {'has' if len(odd) == 1 else 'have'} keys that are no strings, and functions by path"
        found.wrong.append(
            (f"{text} join strings: TypeError from '/'.join(path) and flatten_dict(sep='/')", WITH_NAMES)
        )


def plainly(leaf: NamedLeaf) -> NamedLeaf:
    """The leaf without its box."""
    return dataclasses.replace(leaf, path=leaf.plain)


def _is_known(rules: RuleList, leaf: NamedLeaf) -> bool:
    num = None if rules.fullmatch else rules.first(leaf.text(fullmatch=False))
    return num is not None and rules.names_numbers(num)
