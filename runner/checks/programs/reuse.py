"""Keys that are used more than once: what is drawn from one key is equal, or depends on each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from runner.checks.programs.draws import Draw, Draws, RandomCall


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """One key that several calls of `jax.random` use, or one call again and again.

    Attributes:
      calls: Ids of the calls.
      shapes: Shape of what each of them draws.
      lines: The lines that make them, each once; those that are known.
      equal: Whether all draw the same bits.
      every_round: Whether a loop, or a batch, has the same key in every round.
      shared_over: Of such a loop that Flax makes because a setting says so: names of what a round gets an element of;
        None for any other.
    """

    calls: frozenset[int]
    shapes: tuple[tuple[int, ...], ...]
    lines: tuple[str, ...]
    equal: bool
    every_round: bool = False
    shared_over: frozenset[str] | None = None


def reused(draws: Draws, *, without_source: bool = True) -> list[Reuse]:
    """Every key that is used more than once.

    A split or fold of a key is no use of it, what two branches of a condition draw is drawn once, and what
    `jax.checkpoint` draws again for a gradient is the first draw.

    Args:
      draws: What a traced function draws.
      without_source: Whether draws count whose key comes from no input.
    """
    calls: dict[int, list[Draw]] = {}
    for draw in draws.draws:
        if (draw.sources or without_source) and not draw.call.again:
            calls.setdefault(draw.call.id, []).append(draw)
    by_key: dict[tuple[int, ...], list[list[Draw]]] = defaultdict(list)
    for found in calls.values():
        by_key[found[0].call.keys].append(found)
    return [one for found in by_key.values() for one in _of_key(_apart(found))]


def _apart(calls: list[list[Draw]]) -> list[list[Draw]]:
    """The calls that the layer makes: what a function of JAX draws in several places is one."""
    by_site: dict[Any, list[list[Draw]]] = defaultdict(list)
    for one in calls:
        by_site[one[0].call.site[0]].append(one)
    kept = []
    for found in by_site.values():
        inside = Counter(one[0].call.site[1] for one in found).most_common(1)[0][0]
        kept += [one for one in found if one[0].call.site[1] == inside]
    return kept


def _of_key(calls: list[list[Draw]]) -> Iterator[Reuse]:
    together = [one for one in calls if any(two is not one and not _excludes(one, two) for two in calls)]
    if together:
        yield _reuse(together, equal=len({tuple(draw.number for draw in one) for one in together}) == 1)
    for one in calls:
        loops = one[0].call.loops
        if loops:
            lifted = all(loop.lifted for loop in loops)
            over = frozenset[str]().union(*(loop.elements for loop in loops)) if lifted else None
            yield _reuse([one], equal=True, every_round=True, shared_over=over)
        elif one[0].call.one_for_all:
            yield _reuse([one], equal=True, every_round=True)


def _excludes(one: list[Draw], two: list[Draw]) -> bool:
    return one[0].call.excludes(two[0].call)


def _reuse(
    calls: list[list[Draw]], *, equal: bool, every_round: bool = False, shared_over: frozenset[str] | None = None
) -> Reuse:
    made = [one[0].call for one in calls]
    return Reuse(
        calls=frozenset(call.id for call in made),
        shapes=tuple(one[0].shape for one in calls),
        lines=tuple(_lines(made)),
        equal=equal,
        every_round=every_round,
        shared_over=shared_over,
    )


def _lines(calls: Iterable[RandomCall]) -> list[str]:
    return list(dict.fromkeys(call.line for call in calls if call.line))
