"""What is wrong with a tree of leaves that does not fit, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from runner.arrays.tree_diff import Kind, LeafDiff, TreeDiff
from runner.errors import listed

# The most leaves that are named of a tree that does not fit.
MAX_NAMED = 8


def sentences(found: TreeDiff) -> str:
    """The differences, those that are the same left out."""
    return some([_sentence(item) for item in found.leaves if item.kind != Kind.same])


def _sentence(item: LeafDiff) -> str:
    if item.old is None:
        return f"{item.new} is missing" + (f" (the nearest is {item.nearest})" if item.nearest else "")
    if item.new is None:
        return f"{item.old} is extra"
    if item.old != item.new:
        return f"{item.new} is missing (it may be {item.old})"
    return f"{item.new} is {item.was}, wanted {item.wanted}"


def some(sentences: Sequence[str]) -> str:
    """The first of many sentences, and how many more there are."""
    return listed(sentences, MAX_NAMED)
