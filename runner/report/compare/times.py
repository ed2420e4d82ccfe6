"""Are the times of one side longer than those of the other? One verdict per program, with its evidence. Pure.

A verdict wants both: a difference that chance does not make (p < 0.002, and of many programs p < 0.01 / programs, so
that a whole comparison cries wolf once in a hundred at most; Bonferroni), and a ratio of 1.1. The samples of a single
run are never a distribution: they were taken within milliseconds, and what disturbed one disturbed them all. What is
compared is therefore one number per run, from records, or one ratio per round, in which the two sides alternate.
"""

from __future__ import annotations

import enum
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.records.timing import Aggregate, Samples
from runner.report.aggregate import SEEDS
from runner.report.compare import pairing
from runner.report.compare.pairing import Entry, Pair
from runner.timing import stats

MAX_P = 0.002
MAX_P_TOGETHER = 0.01
MIN_RATIO = 1.1

# Runs of one program whose medians spread more than this, or of which more than half ran on a busy machine, say more
# about the machine than about the program: tests/benchmarks/README.md shows how wrong their verdicts would be.
MAX_IQR = 0.1
MAX_BUSY = 0.5
BUSY_FLAGS = frozenset({"loaded", "contended"})


class Pace(enum.Enum):
    """The times of the second side relative to the first."""

    slower = "slower"
    faster = "faster"
    same = "same"
    unclear = "unclear"
    untimed = "not timed"


@dataclass(frozen=True, kw_only=True)
class Group:
    """The pairs that share a program and timing settings; they differ in their seeds.

    Attributes:
      label: What distinguishes it from the other programs.
      pairs: At least one pair.
    """

    label: str
    pairs: Sequence[Pair]

    def medians(self) -> tuple[list[float], list[float]]:
        """The medians of both sides' runs, in seconds per call."""
        both = [(one.a.apply_s, one.b.apply_s) for one in self.pairs]
        timed = [(a, b) for a, b in both if a is not None and b is not None]
        return [a for a, _ in timed], [b for _, b in timed]

    def flags(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """The number of runs with each flag, for both sides."""
        sides = [one.a for one in self.pairs], [one.b for one in self.pairs]
        a, b = (Counter(flag for entry in side for flag in entry.apply_flags) for side in sides)
        return a, b


@dataclass(frozen=True, kw_only=True)
class Times:
    """One blocking call of apply on both sides: seconds of the first (a) and of the second (b).

    Attributes:
      program: The program, or all of them.
      a: Median over the runs or rounds; None if it was not timed, and for all programs together.
      b: The same for the second side.
      a_flags: The number of runs of the first side with each flag.
      b_flags: The same for the second side.
      ratio: How many times as long the second side takes.
      low: Lower bound of the ratio's 99 % interval, if measured in rounds.
      high: Its upper bound.
      p: Two-sided p-value.
      pace: The verdict.
      why: Why there is no verdict, if there is none.
      together: Whether this is for all programs together.
    """

    program: str
    a: Aggregate | None = None
    b: Aggregate | None = None
    a_flags: Mapping[str, int] = field(default_factory=dict)
    b_flags: Mapping[str, int] = field(default_factory=dict)
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    pace: Pace = Pace.untimed
    why: str = ""
    together: bool = False


def groups(pairs: Iterable[Pair]) -> list[Group]:
    """The pairs that succeeded on both sides, by program."""
    found: defaultdict[Hashable, list[Pair]] = defaultdict(list)
    for one in pairs:
        if one.a.done and one.b.done:
            found[_program(one.a), _program(one.b)].append(one)
    labels = _labels([members[0] for members in found.values()])
    return [Group(label=label, pairs=members) for label, members in zip(labels, found.values(), strict=True)]


def from_records(members: Sequence[Group]) -> list[Times]:
    """A verdict for each program and, if there are several, one for all of them together.

    Tests each program with Mann–Whitney on the medians of its runs, and all together with van Elteren, so that a few
    seeds of many programs show what those of one can't.
    """
    limit = _limit(len(members) + (len(members) > 1))
    rows = [_of_group(group, limit) for group in members]
    quiet = [group for group in members if group.medians()[0] and not _obstacle(group)]
    return [*rows, _together(quiet, len(members), limit)] if len(members) > 1 and quiet else rows


def from_rounds(measured: Mapping[str, tuple[Samples, Samples] | str], num_rounds: int) -> list[Times]:
    """A verdict for each program whose sides were called alternately.

    A round gives the fastest call of each side, and the ratio of the two. Fluctuating load affects both sides of a
    round equally, so the ratios are independent even if the times are not; Wilcoxon's signed-rank test checks them
    (interleaved trials: A. Abedi, T. Brecht, Conducting repeatable experiments in highly variable cloud computing
    environments, ICPE 2017). `tests/benchmarks/compare.py` counts how often this test finds a planted slowdown, and how
    often Mann–Whitney's on the same numbers.

    Args:
      measured: Samples of both sides by program label; samples with the same index were taken one after the other. Or
        why there are none.
      num_rounds: Number of rounds that the samples are split into.
    """
    limit = _limit(len(measured))
    return [
        Times(program=label, pace=Pace.unclear, why=found)
        if isinstance(found, str)
        else _of_rounds(label, found, num_rounds, limit)
        for label, found in measured.items()
    ]


def _of_rounds(label: str, sides: tuple[Samples, Samples], num_rounds: int, limit: float) -> Times:
    a, b = (stats.fastest_of_blocks(samples, num_rounds) for samples in sides)
    ratios = [two / one for one, two in zip(a, b, strict=True)]
    ratio, p = stats.aggregate(ratios), stats.signed_rank_test(ratios)
    assert ratio is not None
    pace, why = _checked(ratio.median, p, limit)
    if 2 ** (1 - num_rounds) >= limit:
        needed = next(num for num in itertools.count(num_rounds) if 2 ** (1 - num) < limit)
        pace, why = Pace.unclear, f"{num_rounds} rounds can't tell: p < {limit:.2g} takes {needed}"
    return Times(
        program=label,
        a=stats.aggregate(a),
        b=stats.aggregate(b),
        ratio=ratio.median,
        low=ratio.low,
        high=ratio.high,
        p=p,
        pace=pace,
        why=why,
    )


def _of_group(group: Group, limit: float) -> Times:
    a, b = group.medians()
    of_a, of_b = stats.aggregate(a), stats.aggregate(b)
    if of_a is None or of_b is None:
        return Times(program=group.label)
    ratio, p = of_b.median / of_a.median, stats.rank_test(a, b)
    pace, why = _checked(ratio, p, limit)
    if obstacles := [reason for reason in (_obstacle(group), _too_few([(a, b)], limit)) if reason]:
        pace, why = Pace.unclear, "; ".join(obstacles)
    a_flags, b_flags = group.flags()
    return Times(
        program=group.label,
        a=of_a,
        b=of_b,
        a_flags=a_flags,
        b_flags=b_flags,
        ratio=ratio,
        p=p,
        pace=pace,
        why=why,
    )


def _together(quiet: Sequence[Group], num_groups: int, limit: float) -> Times:
    """The verdict on all programs without an obstacle, each ranked separately."""
    strata = [group.medians() for group in quiet]
    ratios = stats.aggregate(statistics.median(b) / statistics.median(a) for a, b in strata)
    assert ratios is not None
    p = stats.stratified_rank_test(strata)
    pace, why = _checked(ratios.median, p, limit)
    if too_few := _too_few(strata, limit):
        pace, why = Pace.unclear, too_few
    which = "all" if len(quiet) == num_groups else f"{len(quiet)} of"
    program = f"{which} {num_groups} programs"
    return Times(program=program, ratio=ratios.median, p=p, pace=pace, why=why, together=True)


def _checked(ratio: float, p: float, limit: float) -> tuple[Pace, str]:
    """The verdict for a ratio and its p-value, and why there is none."""
    large = not 1 / MIN_RATIO < ratio < MIN_RATIO
    if not large:
        return Pace.same, ""
    if p >= limit:
        return Pace.unclear, "it may be chance"
    return (Pace.slower if ratio > 1 else Pace.faster), ""


def _limit(num_tests: int) -> float:
    return min(MAX_P, MAX_P_TOGETHER / max(1, num_tests))


def _too_few(strata: Sequence[tuple[list[float], list[float]]], limit: float) -> str:
    """Why this many runs can never be significant; empty if they can."""
    num = sum(len(a) for a, _ in strata)
    if stats.smallest_p([(len(a), len(b)) for a, b in strata]) < limit:
        return ""
    counts = itertools.count(1)
    needed = next(seeds for seeds in counts if stats.smallest_p([(seeds, seeds)] * len(strata)) < limit)
    each = " of each program" * (len(strata) > 1)
    return f"{num} run{'s' * (num != 1)} a side can't tell: p < {limit:.2g} takes {needed} seeds{each}"


def _obstacle(group: Group) -> str:
    """Why the times of a program can't be compared; empty if they can."""
    first = group.pairs[0]
    other = pairing.differing(_timing(first.a), _timing(first.b))
    if other:
        return f"timed in two ways: {', '.join(other)}"
    for name, medians, flags in zip("AB", group.medians(), group.flags(), strict=True):
        if sum(flags.get(flag, 0) for flag in BUSY_FLAGS) > MAX_BUSY * len(medians):
            return f"{name} was timed on a busy machine"
        if stats.relative_iqr(medians) > MAX_IQR:
            return f"the runs of {name} lie more than 10 % apart"
    return ""


def _program(entry: Entry) -> Hashable:
    return entry.program_id, entry.device, tuple(_timing(entry).items()), tuple(sorted(entry.sources.items()))


def _timing(entry: Entry) -> dict[str, str]:
    return {key: value for key, value in entry.settings.items() if key.startswith("timing.")}


def _labels(pairs: Sequence[Pair]) -> list[str]:
    """A name for each of several programs: its layer and whatever else varies, plus a number if necessary."""
    keys = [key for key in pairing.varied([one.a for one in pairs]) if key not in SEEDS]
    short = [key for key in keys if not key.startswith(("layer.", "host."))]
    layers = len({one.a.layer for one in pairs}) > 1
    for chosen in (short, _needed(keys, pairs)):
        labels = [_label(one.a, chosen, layer=layers or not chosen) for one in pairs]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({number})" for number, label in enumerate(labels, start=1)]


def _needed(keys: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    """Those of `keys` that distinguish the programs, without arguments that others determine: sizes, mostly."""
    kept = list(keys)
    for key in [one for one in keys if one.startswith(("layer.", "host."))]:
        others = [other for other in kept if other != key]
        if len({_label(one.a, others, layer=True) for one in pairs}) == len(pairs):
            kept = others
    return kept


def _label(entry: Entry, keys: Sequence[str], *, layer: bool) -> str:
    values = [f"{key}={entry.settings[key]}" for key in keys if key in entry.settings]
    return " ".join([*([entry.layer] if layer else []), *values])
