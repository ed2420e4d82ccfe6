"""Pairs the runs of two sides. Pure: records in, pairs out; no JAX."""

from __future__ import annotations

import enum
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.config.dotted_keys import flatten
from runner.config.serialize import canonical_digest
from runner.errors import literal
from runner.records.record import Record, Verdict
from runner.records.row import row_of

# Settings of the sweep, its cache and tracking, and display names: they say nothing about the run.
NOT_OF_THE_RUN = (
    *("sweep", "output_root", "failure.", "grid."),
    *("process.compilation_cache", "process.workers", "tracking.", "layer.name", "host.name"),
)

# Settings that change how a run is checked, timed or kept, and not its result.
NOT_OF_THE_RESULT = ("timing.", "checks.", "checkpoint.", "process.num_cpu_devices")

MISSING = "–"


class How(enum.Enum):
    """What two paired runs have in common."""

    result_id = "result id"
    settings = "settings"
    other_settings = "the settings that both sides share"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The part of a record that a comparison needs, small enough for thousands to fit in memory.

    Attributes:
      label: The run's name: `<num>-<id>`.
      settings: The run's own settings by dotted key, with values in Hydra's syntax.
      output: Digest of each array of the output, by path.
      variables: One digest over all leaves.
      checks: The verdict of each check that was run, by name.
      sources: SHA-256 of the user's modules that the run comes from, by name.
      apply_s: Median time of one blocking call of apply; None if it was not timed.
      apply_flags: Why that time may be unreliable.
    """

    label: str
    run_id: str
    result_id: str
    program_id: str
    layer: str
    device: str
    platform: str
    status: str
    settings: Mapping[str, str]
    output: Mapping[str, str]
    variables: str
    checks: Mapping[str, str]
    apply_s: float | None
    apply_flags: Sequence[str]
    machine_id: str
    software_id: str
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the run succeeded."""
        return self.status == "done"

    def settings_but(self, left_out: Sequence[str]) -> dict[str, str]:
        """The settings without some keys; a key that ends with a dot stands for a group."""
        return {key: value for key, value in self.settings.items() if not _is_one_of(key, left_out)}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A run of each side."""

    a: Entry
    b: Entry
    how: How


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The paired runs of both sides.

    Attributes:
      pairs: The pairs, in the order of the first side.
      only_a: Runs of the first side without a partner.
      only_b: Runs of the second.
    """

    pairs: Sequence[Pair]
    only_a: Sequence[Entry]
    only_b: Sequence[Entry]


def entry_of(record: Record) -> Entry:
    """The part of `record` that a comparison needs."""
    row = row_of(record)
    flat = flatten(record.settings)
    return Entry(
        label=row.label,
        run_id=record.run_id,
        result_id=record.result_id,
        program_id=record.program_id,
        layer=record.layer,
        device=record.device,
        platform=record.platform,
        status=record.status.value,
        # Thousands of runs share the same keys and values: each is stored once.
        settings={
            sys.intern(key): sys.intern(literal(value))
            for key, value in flat.items()
            if not _is_one_of(key, NOT_OF_THE_RUN)
        },
        output={array.path: array.digest for array in record.output},
        variables=canonical_digest([(leaf.name, leaf.digest) for leaf in record.variables]),
        checks={one.name: one.verdict.value for one in record.checks if one.verdict is not Verdict.skipped},
        apply_s=row.apply_s,
        apply_flags=row.apply_flags,
        machine_id=str(record.fingerprint.get("machine_id")),
        software_id=str(record.fingerprint.get("software_id")),
        sources={sys.intern(module): sys.intern(digest) for module, digest in record.sources.items()},
    )


def pair(a: Sequence[Entry], b: Sequence[Entry]) -> Pairing:
    """Pairs the runs of both sides.

    First by run id and result id; the remaining runs by the settings that change a result: their ids then differ
    because the layer's source, an input file or the initial variables differ. If no run has such a partner, the sides
    differ on purpose (two layers, two dtypes): then by the settings that take the same values on both.
    """
    order = {id(entry): place for place, entry in enumerate(a)}
    pairs: list[Pair] = []
    keys: list[tuple[How, Callable[[Entry], Hashable]]] = [
        (How.result_id, lambda entry: entry.run_id),
        (How.result_id, lambda entry: entry.result_id),
        (How.settings, lambda entry: _key(entry.settings_but(NOT_OF_THE_RESULT))),
    ]
    for how, key in keys:
        found, a, b = _matched(a, b, key)
        pairs += [Pair(a=one, b=two, how=how) for one, two in found]
    if not pairs:
        left_out = [*NOT_OF_THE_RESULT, *_disjoint(a, b)]
        found, a, b = _alone(a, b, lambda entry: _key(entry.settings_but(left_out)))
        pairs = [Pair(a=one, b=two, how=How.other_settings) for one, two in found]
    return Pairing(pairs=sorted(pairs, key=lambda one: order[id(one.a)]), only_a=a, only_b=b)


def differing(one: Mapping[str, str], two: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The keys whose values differ, with both values."""
    keys = dict.fromkeys([*one, *two])
    values = {key: (one.get(key, MISSING), two.get(key, MISSING)) for key in keys}
    return {key: both for key, both in values.items() if both[0] != both[1]}


def varied(entries: Sequence[Entry]) -> list[str]:
    """The result settings that vary among `entries`."""
    values: defaultdict[str, set[str]] = defaultdict(set)
    for entry in entries:
        for key in entry.settings_but(NOT_OF_THE_RESULT):
            values[key].add(entry.settings[key])
    return [key for key, found in values.items() if len(found) > 1 or any(key not in one.settings for one in entries)]


def _matched(
    a: Sequence[Entry], b: Sequence[Entry], key: Callable[[Entry], Hashable]
) -> tuple[list[tuple[Entry, Entry]], list[Entry], list[Entry]]:
    """Pairs with equal keys, in order if a key has several, and the unpaired runs of both sides."""
    waiting: defaultdict[Hashable, list[Entry]] = defaultdict(list)
    for entry in reversed(b):
        waiting[key(entry)].append(entry)
    pairs, left = [], []
    for entry in a:
        partners = waiting[key(entry)]
        if partners:
            pairs.append((entry, partners.pop()))
        else:
            left.append(entry)
    taken = {id(two) for _, two in pairs}
    return pairs, left, [entry for entry in b if id(entry) not in taken]


def _alone(
    a: Sequence[Entry], b: Sequence[Entry], key: Callable[[Entry], Hashable]
) -> tuple[list[tuple[Entry, Entry]], list[Entry], list[Entry]]:
    """Like `_matched`, but only if each side has one run per key: several could not be told apart."""
    sides = []
    for side in (a, b):
        by_key: defaultdict[Hashable, list[Entry]] = defaultdict(list)
        for entry in side:
            by_key[key(entry)].append(entry)
        sides.append({name for name, entries in by_key.items() if len(entries) == 1})
    both = sides[0] & sides[1]
    pairs, *_ = _matched([one for one in a if key(one) in both], [two for two in b if key(two) in both], key)
    return pairs, [one for one in a if key(one) not in both], [two for two in b if key(two) not in both]


def _disjoint(a: Sequence[Entry], b: Sequence[Entry]) -> list[str]:
    """The settings without a common value on the two sides."""
    keys = dict.fromkeys(key for entry in (*a, *b) for key in entry.settings)
    sides = [{key: {entry.settings.get(key, MISSING) for entry in side} for key in keys} for side in (a, b)]
    return [key for key in keys if not sides[0][key] & sides[1][key]]


def _key(settings: Mapping[str, str]) -> Hashable:
    return tuple(sorted(settings.items()))


def _is_one_of(key: str, names: Sequence[str]) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in names)
