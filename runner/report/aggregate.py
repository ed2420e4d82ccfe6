"""Aggregates runs that differ only in their seeds: median, interval and number of runs. Pure; no JAX."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.errors import UserError, literal, nearest
from runner.records.record import Status
from runner.records.row import Row
from runner.records.timing import Aggregate
from runner.report import table
from runner.timing import stats

# Keys in which runs of one group may differ.
SEEDS = ("seed", "input.seed", "train.teacher_seed")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that share the values of some keys.

    Attributes:
      values: The keys with their values, in Hydra's command-line syntax.
      num_runs: Number of runs done.
      num_failed: Number of failed runs.
      loss: The loss of trained runs before their last step.
      output_norm: Euclidean norm of the output.
      apply_s: Median time of one blocking call of apply, in seconds.
      flags: How many runs carry each flag.
      also_varied: Other keys, except seeds, whose values differ between the runs.
    """

    values: Mapping[str, str]
    num_runs: int
    num_failed: int
    loss: Aggregate | None
    output_norm: Aggregate | None
    apply_s: Aggregate | None
    flags: Mapping[str, int]
    also_varied: Sequence[str]


def by(rows: Sequence[Row], keys: Sequence[str]) -> list[Group]:
    """Groups `rows` by the values of `keys`, in order of first appearance.

    Raises:
      UserError: The runs have no such key.
    """
    found: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        values = table.values_of(row)
        for key in keys:
            require_key(key, values)
        found[tuple(literal(values[key]) for key in keys)].append(row)
    return [_group(dict(zip(keys, values, strict=True)), members) for values, members in found.items()]


def suggest(rows: Sequence[Row], keys: Sequence[str] | None = None) -> str:
    """The comma-separated keys that group runs differing only in their seeds.

    Args:
      rows: The runs.
      keys: `table.shown_keys(rows)`, if the caller has them.
    """
    keys = table.shown_keys(rows) if keys is None else keys
    return ",".join(key for key in keys if key not in SEEDS) or "layer"


def require_key(key: str, known: Mapping[str, object]) -> None:
    """Validates that runs can be grouped by `key`.

    Raises:
      UserError: The runs have no such key.
    """
    if key not in known:
        close = nearest(key, known)
        raise UserError(f"{key}: the runs have no such key", close)


def lines(groups: Sequence[Group]) -> list[Mapping[str, str]]:
    """One table row per group."""
    failed = any(group.num_failed for group in groups)
    trained = any(group.loss is not None for group in groups)
    return [
        dict(group.values)
        | {"runs": str(group.num_runs)}
        | ({"failed": str(group.num_failed)} if failed else {})
        | ({"loss": table.spread(group.loss, "{:.4g}".format)} if trained else {})
        | {"output norm": table.spread(group.output_norm, "{:.6g}".format)}
        | {"apply": (table.FLAGGED if group.flags else "") + table.spread(group.apply_s, table.duration)}
        for group in groups
    ]


def notes(groups: Sequence[Group]) -> list[str]:
    """The notes below that table: what its numbers are, why they are flagged, and what else varies within a group."""
    said = ["median over the runs (99 % interval, which takes 8)"]
    flags: Counter[str] = Counter()
    for group in groups:
        flags += Counter(group.flags)
    said += [table.flags_line(flags)] if flags else []
    more = list(dict.fromkeys(key for group in groups for key in group.also_varied))
    together = ",".join([*groups[0].values, *more]) if more else ""
    return said + ([f"runs of several {', '.join(more)} are taken together: --by {together}"] if more else [])


def _group(values: Mapping[str, str], rows: Sequence[Row]) -> Group:
    done = [row for row in rows if row.status == Status.done.value]
    return Group(
        values=values,
        num_runs=len(done),
        num_failed=sum(row.status == Status.failed.value for row in rows),
        loss=stats.aggregate(row.loss_last for row in done),
        output_norm=stats.aggregate(row.output_norm for row in done),
        apply_s=stats.aggregate(row.apply_s for row in done),
        flags=dict(Counter(flag for row in done for flag in row.apply_flags)),
        also_varied=[key for key in table.shown_keys(rows) if key not in SEEDS and key not in values],
    )
