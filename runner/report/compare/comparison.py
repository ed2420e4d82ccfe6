"""Compares two sides: results, checks, settings, environment, times, and one verdict. Pure: records in, a value out.

Outputs are read only if their digests differ, with the function that the caller passes; JAX is imported only then.
"""

from __future__ import annotations

import enum
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from runner.config.dotted_keys import flatten
from runner.errors import literal
from runner.report.compare import pairing
from runner.report.compare.pairing import Entry, How, Pair, Pairing
from runner.report.compare.source_diff import SourceDiff
from runner.report.compare.times import Pace, Times

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]
Read = Callable[[Pair], tuple[Arrays, Arrays]]

# Equivalent programs that XLA fused differently differ only in the last bits.
MAX_ULP = 4

# Ids derived from the rest of a fingerprint.
NOT_SHOWN = ("machine_id", "software_id")


class Agreement(enum.Enum):
    """How the outputs of two runs agree."""

    same = "the same bits"
    ulp = f"within {MAX_ULP} ulp"
    tolerance = "within the tolerance"
    different = "different"
    none = "no output on either side"


class Outcome(enum.Enum):
    """The verdict of a comparison; its exit code is in `EXIT_CODES`."""

    same = "same"
    slower = "slower"
    different = "results differ"
    not_comparable = "not comparable"


EXIT_CODES = {Outcome.same: 0, Outcome.slower: 3, Outcome.different: 4, Outcome.not_comparable: 5}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side.

    Attributes:
      name: Its name as typed.
      entries: Its runs.
      fingerprints: Every machine and software that its runs were executed on.
    """

    name: str
    entries: Sequence[Entry]
    fingerprints: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A pair of runs and how their results agree.

    Attributes:
      a: The run of the first side.
      b: The run of the second.
      how: What pairs them.
      agreement: How their outputs agree.
      ulp: The largest difference in units in the last place, if the outputs are comparable that way.
      detail: What differs.
      counts: Whether this makes the results of the sides differ: different outputs, or different bits although result
        id, machine and software are the same.
      same_variables: Whether the variables have the same bits.
      checks: The verdicts of both sides for checks that changed.
    """

    a: str
    b: str
    how: How
    agreement: Agreement
    ulp: int | None = None
    detail: str = ""
    counts: bool = False
    same_variables: bool = True
    checks: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class ChangedValue:
    """A setting, or a fact of the environment, that the sides do not share.

    Attributes:
      key: Dotted.
      a: Its value on the first side.
      b: Its value on the second.
      num_pairs: Pairs that differ so; 0 for the environment.
    """

    key: str
    a: str
    b: str
    num_pairs: int = 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the second side (b) compares with the first (a).

    Attributes:
      a: Name of the first side.
      b: Name of the second.
      results: One per pair.
      only_a: Runs of the first side without a partner.
      only_b: Runs of the second.
      settings: What differs between the runs of a pair.
      environment: What differs between the machines and the software.
      other_machine: Whether the sides were made on different machines.
      forced: Whether they were compared anyway.
      times: One per program, and one for all together.
      num_rounds: Number of rounds in which the times were measured; None if they come from the records.
      sources: The user's own modules that differ.
      not_rerun: Why programs could not be rerun on both sides as they were saved, by program.
      has_sources: Whether the runs come from modules of the user's, so that a rerun needs trust.
    """

    a: str
    b: str
    results: Sequence[Result]
    only_a: Sequence[str]
    only_b: Sequence[str]
    settings: Sequence[ChangedValue]
    environment: Sequence[ChangedValue]
    other_machine: bool
    forced: bool
    times: Sequence[Times]
    num_rounds: int | None = None
    sources: Sequence[SourceDiff] = ()
    not_rerun: Mapping[str, str] = field(default_factory=dict)
    has_sources: bool = False

    @property
    def outcome(self) -> Outcome:
        """The verdict: differing results outweigh times."""
        if not self.results or (self.other_machine and not self.forced and self.num_rounds is None):
            return Outcome.not_comparable
        if any(one.counts for one in self.results):
            return Outcome.different
        if any(one.pace is Pace.slower for one in self.times):
            return Outcome.slower
        return Outcome.not_comparable if self.not_rerun else Outcome.same


def comparison_of(
    a: Side,
    b: Side,
    pairs: Pairing,
    *,
    times: Sequence[Times],
    read: Read,
    forced: bool = False,
    num_rounds: int | None = None,
    sources: Sequence[SourceDiff] = (),
    not_rerun: Mapping[str, str] = MappingProxyType({}),
) -> Comparison:
    """Compares the two sides.

    Args:
      a: The first side.
      b: The second.
      pairs: The paired runs.
      times: The times of the pairs, from `runner.report.compare.times`.
      read: Returns the arrays of both outputs by path.
      forced: Whether to compare sides from different machines.
      num_rounds: Number of rounds in which the times were measured; None if they come from the records.
      sources: The user's own modules that differ.
      not_rerun: Why programs could not be rerun on both sides as they were saved, by program.
    """
    return Comparison(
        a=a.name,
        b=b.name,
        results=[_result(one, read) for one in pairs.pairs],
        only_a=[entry.label for entry in pairs.only_a],
        only_b=[entry.label for entry in pairs.only_b],
        settings=_settings(pairs.pairs),
        environment=_environment(a.fingerprints, b.fingerprints),
        other_machine=other_machine(pairs),
        forced=forced,
        times=times,
        num_rounds=num_rounds,
        sources=sources,
        not_rerun=dict(not_rerun),
        has_sources=any(one.a.sources or one.b.sources for one in pairs.pairs),
    )


def other_machine(pairs: Pairing) -> bool:
    """Whether any run was executed on a different machine from its partner."""
    return any(one.a.machine_id != one.b.machine_id for one in pairs.pairs)


def to_data(comparison: Comparison) -> dict[str, Any]:
    """`comparison` as JSON data, with its verdict and exit code."""
    outcome = comparison.outcome
    head = {"outcome": outcome.value, "exit_code": EXIT_CODES[outcome]}
    return head | json.loads(
        json.dumps(vars(comparison), default=lambda one: one.value if isinstance(one, enum.Enum) else vars(one))
    )


def _result(pair: Pair, read: Read) -> Result:
    agreement, ulp, detail = _agreement(pair, read)
    promised = pair.how is How.result_id and _place(pair.a) == _place(pair.b) and pair.a.sources == pair.b.sources
    unlike = agreement not in (Agreement.same, Agreement.none)
    changed = pairing.differing(pair.a.checks, pair.b.checks)
    return Result(
        a=pair.a.label,
        b=pair.b.label,
        how=pair.how,
        agreement=agreement,
        ulp=ulp,
        detail=detail,
        counts=agreement is Agreement.different or (promised and unlike),
        same_variables=pair.a.variables == pair.b.variables,
        checks={key: both for key, both in changed.items() if pairing.MISSING not in both},
    )


def _agreement(pair: Pair, read: Read) -> tuple[Agreement, int | None, str]:
    if pair.a.status != pair.b.status:
        return Agreement.different, None, f"{pair.a.status} against {pair.b.status}"
    if pair.a.output == pair.b.output:
        return (Agreement.same, 0, "") if pair.a.output else (Agreement.none, None, "")
    return _distance(*read(pair))


def _distance(kept: Arrays, made: Arrays) -> tuple[Agreement, int | None, str]:
    """How two sets of named arrays with different digests agree."""
    from runner.arrays import closeness

    found = closeness.differences(kept, made)
    if not found:
        return Agreement.same, 0, ""
    ulps = [item["ulp"] for item in found.values() if isinstance(item, dict)]
    ulp = max(ulps) if len(ulps) == len(found) else None
    if ulp is None:
        return Agreement.different, None, closeness.largest_differences(found)
    if not closeness.are_close(kept, made):
        # This far apart, units in the last place are meaningless.
        names = ", ".join(path or "output" for path in found)
        return Agreement.different, ulp, f"{names} by up to {closeness.apart(kept, made):.2g} of the largest value"
    return (Agreement.ulp if ulp <= MAX_ULP else Agreement.tolerance), ulp, closeness.largest_differences(found)


def _place(entry: Entry) -> tuple[str, ...]:
    return entry.machine_id, entry.software_id, entry.device


def _settings(pairs: Iterable[Pair]) -> list[ChangedValue]:
    found: Counter[tuple[str, str, str]] = Counter()
    for one in pairs:
        found.update((key, *both) for key, both in pairing.differing(one.a.settings, one.b.settings).items())
    return [ChangedValue(key=key, a=a, b=b, num_pairs=num) for (key, a, b), num in found.items()]


def _environment(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> list[ChangedValue]:
    """What is not the same on both sides; where a side has several values, all of them."""
    sides = [_facts(a), _facts(b)]
    return [ChangedValue(key=key, a=one, b=two) for key, (one, two) in pairing.differing(*sides).items()]


def _facts(fingerprints: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    values: dict[str, dict[str, None]] = {}
    for fingerprint in fingerprints:
        for key, value in flatten(fingerprint).items():
            if key not in NOT_SHOWN:
                values.setdefault(key, {})[literal(value)] = None
    return {key: ", ".join(found) for key, found in values.items()}
