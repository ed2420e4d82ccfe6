"""Masks by path: which leaves get weight decay, and which the optimiser leaves as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from runner.arrays import trees
from runner.bridge.rules.leaves import ALONE, NamedLeaf
from runner.bridge.rules.patterns import RuleList
from runner.checks.pipeline.findings import Findings, Replaced, names, regex_of
from runner.checks.pipeline.partition import WITHOUT_BOX
from runner.checks.results import verdicts


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a mask does with a leaf: whether it takes it, and whether by a rule for such names."""

    yes: bool
    meant: bool = False


@dataclass(frozen=True, kw_only=True)
class Masked:
    """A mask on the leaves of one tree.

    Attributes:
      taken: By the leaf's name.
      of: What the mask does with a leaf that is not in the tree, if it can tell.
      rule: What a mask of rules says of a leaf, in words.
    """

    taken: Mapping[str, Taken]
    of: Callable[[NamedLeaf], Taken | None]
    rule: Callable[[NamedLeaf], str]


def masked(mask: Any, variables: Any, leaves: Sequence[NamedLeaf]) -> Masked:
    """What `mask` does with the `leaves` of the params in `variables`.

    Raises:
      Exception: Whatever a mask that is a function raises.
      ValueError: It gives another tree than that of the params.
    """
    if isinstance(mask, RuleList):
        rules = mask
        taken = {leaf.name: _by_rule(rules, leaf.text(fullmatch=rules.fullmatch)) for leaf in leaves}
        return Masked(
            taken=taken,
            of=lambda leaf: _by_rule(rules, leaf.text(fullmatch=rules.fullmatch)),
            rule=lambda leaf: _rule(rules, leaf),
        )
    found = _by_function(mask, variables, leaves)
    return Masked(taken=found, of=lambda leaf: found.get(leaf.name), rule=lambda leaf: "the mask")


def judge_decay(mask: Masked, leaves: Sequence[NamedLeaf], replaced: Replaced, before: Masked, found: Findings) -> None:
    """Adds the matrices of the layer that get no weight decay.

    Args:
      mask: The mask on the tree.
      leaves: Its leaves that the optimiser gets.
      replaced: The leaf in whose place each is.
      before: The mask on the tree that those are in.
      found: Where to add.
    """
    judged = [leaf for leaf in leaves if not leaf.is_scalar and _is_judged(leaf, replaced)]
    matrices = [leaf for leaf in judged if leaf.is_matrix]
    without = [leaf for leaf in matrices if _lacks(mask.taken[leaf.name], before, replaced.get(leaf.name))]
    found.evidence["weight_decay"] = {leaf.name: mask.taken[leaf.name].yes for leaf in leaves}
    if without:
        plural = "matrices" if len(matrices) > 1 else "matrix"
        gets = "get" if len(without) > 1 or len(matrices) > 1 else "gets"
        text = f"{len(without)} of {len(matrices)} {plural} of the new layer {gets} no weight decay: {names(without)}"
        found.limits.append((text, _decay_fix(without, mask)))
    added = [
        leaf for leaf in judged if mask.taken[leaf.name].yes and _is_taken(before, replaced.get(leaf.name)) is False
    ]
    if added:
        text = f"{names(added)} {_get(added)} weight decay, and what was there got none"
        found.limits.append((text, f"{(regex_of(added), 0.0)!r},  # one more in the mask, before that"))
    if not without and not added:
        num = sum(mask.taken[leaf.name].yes for leaf in leaves)
        found.said.append(f"{num} of {len(leaves)} leaves get weight decay")


def judge_freeze(
    mask: Masked, leaves: Sequence[NamedLeaf], replaced: Replaced, before: Masked, found: Findings
) -> None:
    """Adds leaves whose training a new name changes, and a layer that only a catch-all freezes; as `judge_decay`."""
    found.evidence["freeze"] = {leaf.name: mask.taken[leaf.name].yes for leaf in leaves}
    pairs = [(leaf, _is_taken(before, replaced.get(leaf.name))) for leaf in leaves]
    changed = [(leaf, was) for leaf, was in pairs if was not in (None, mask.taken[leaf.name].yes)]
    for was in (False, True):
        other = [leaf for leaf, one in changed if one is was and not mask.taken[leaf.name].meant]
        if other:
            text = f"{names(other)} {'is' if len(other) == 1 else 'are'} "
            text += "trained, and what was there is frozen" if was else "frozen, and what was there is trained"
            value = "True" if was else "False"
            found.wrong.append((text, f"({regex_of(other)!r}, {value}),  # one more in the mask, before that"))
    own = [leaf for leaf in leaves if leaf.is_own]
    frozen = [leaf for leaf in own if mask.taken[leaf.name].yes]
    if frozen and len(frozen) == len(own) and not changed and not any(mask.taken[leaf.name].meant for leaf in own):
        text = f"{names(frozen)} {'is' if len(frozen) == 1 else 'are'} frozen by {mask.rule(frozen[0])} alone: "
        text += "right only for a layer that starts from a checkpoint"
        found.limits.append((text, f"({regex_of(frozen)!r}, False),  # one more in the mask, before that"))
    elif not changed:
        found.said.append(f"{sum(mask.taken[leaf.name].yes for leaf in leaves)} of {len(leaves)} leaves are frozen")


def words(error: Exception, mask: str) -> str:
    """What a mask that raises says."""
    return f"the function for rules.{mask} raises {verdicts.words(error)}"


def _is_judged(leaf: NamedLeaf, replaced: Replaced) -> bool:
    return leaf.is_own or (leaf.name in replaced and replaced[leaf.name].name != leaf.name)


def _is_taken(before: Masked, leaf: NamedLeaf | None) -> bool | None:
    taken = None if leaf is None else before.of(leaf)
    return None if taken is None else taken.yes


def _lacks(taken: Taken, before: Masked, leaf: NamedLeaf | None) -> bool:
    """Whether a matrix gets no decay, and neither a rule for it nor what it replaces says that this is meant."""
    return not taken.yes and not taken.meant and _is_taken(before, leaf) is not False


def _by_rule(rules: RuleList, text: str) -> Taken:
    num = rules.first(text)
    if num is None:
        return Taken(yes=False)
    return Taken(yes=bool(rules.rules[num].value), meant=not rules.is_catch_all(num))


def _rule(rules: RuleList, leaf: NamedLeaf) -> str:
    num = rules.first(leaf.text(fullmatch=rules.fullmatch))
    return "no rule" if num is None else f"the catch-all {rules.rules[num].pattern!r}"


def _by_function(mask: Callable[[Any], Any], variables: Any, leaves: Sequence[NamedLeaf]) -> dict[str, Taken]:
    params = trees.shapes(variables[leaves[0].path[0]]) if leaves else {}
    tree = mask({ALONE: params} if leaves and leaves[0].is_alone else params)
    given = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, bool))
    if len(given) != len(leaves) or any(isinstance(one, str) for one in given):
        raise ValueError(f"{len(given)} booleans for {len(leaves)} leaves")
    return {leaf.name: Taken(yes=bool(one), meant=False) for leaf, one in zip(leaves, given, strict=True)}


def _decay_fix(without: Sequence[NamedLeaf], mask: Masked) -> str:
    def plainly(leaf: NamedLeaf) -> bool:
        taken = mask.of(_unboxed(leaf))
        return leaf.path != leaf.plain and taken is not None and taken.yes

    if all(map(plainly, without)):
        return WITHOUT_BOX
    return f"{(regex_of(without), 1.0)!r},  # one more in the mask"


def _unboxed(leaf: NamedLeaf) -> NamedLeaf:
    return NamedLeaf(
        path=leaf.plain, plain=leaf.plain, shape=leaf.shape, own_rank=leaf.own_rank, is_alone=leaf.is_alone
    )


def _get(leaves: Sequence[NamedLeaf]) -> str:
    return "gets" if len(leaves) == 1 else "get"
