"""What the page shows of a run besides its row: settings, program, seed's story, outputs, times, checks, error."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from runner.config.dotted_keys import Part, apart, exact, flatten, shared
from runner.errors import literal
from runner.records import seeds
from runner.records.record import Check, Record
from runner.records.timing import Measurement
from runner.report.html.pool import Pool, number
from runner.report.html.training_data import losses, training

# The measurements of a run that are summarised by an interval.
STEADY = ("apply_latency", "apply_dispatch", "apply_throughput", "init_latency")

# Characters of a digest that are shown.
DIGEST_LETTERS = 12


def pairs(settings: Mapping[str, Any], pool: Pool) -> list[list[int]]:
    """Every setting as a pair of its dotted key and a number, or its value as typed: before the seed, of it, after it.

    Most runs differ in their seed alone, and share the other two lists.
    """
    before, after = apart(settings)
    seed = {"seed": settings["seed"]} if "seed" in settings else {}
    parts = (before, Part(seed, exact(seed)), after)
    return [pool.places(("settings", part.key), functools.partial(_groups, part.data, pool)) for part in parts]


def _groups(settings: Mapping[str, Any], pool: Pool) -> list[int]:
    groups = [
        _places(name, value, functools.partial(_group, name, value, pool), pool) for name, value in settings.items()
    ]
    return [place for group in groups for place in group]


def _places(name: str, value: Any, make: Callable[[], list[int]], pool: Pool) -> list[int]:
    return pool.places((name, exact(value)), make)


def _group(name: str, value: Any, pool: Pool) -> list[int]:
    typed = [(key, _typed(one)) for key, one in flatten({name: value}).items()]
    return [pool.place((key, type(one), one), functools.partial(list, (key, one))) for key, one in typed]


def _typed(value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else literal(value)


def _program_key(record: Record) -> Hashable:
    """The key of what runs of one program share; a run that ended early has less of it."""
    return record.program_id, len(record.streams), len(record.variables)


def _program(record: Record, pool: Pool) -> int:
    """What runs of one program share: rng streams, mutable collections, and one line per leaf."""
    return pool.place(("program", _program_key(record)), lambda: _described(record))


def _described(record: Record) -> dict[str, Any]:
    layer = seeds.layer_path(_as_story(record))
    leaves = [
        [
            leaf.name,
            seeds.nnx_path(leaf.path, layer),
            f"{leaf.dtype}{literal(leaf.shape)}",
            leaf.num_bytes,
            f"{literal(leaf.names)} {leaf.box}" if leaf.box else "",
        ]
        for leaf in record.variables
    ]
    return {"streams": record.streams, "mutable": record.mutable, "leaves": leaves}


def _story(record: Record, pool: Pool) -> list[int]:
    """The lines of the seed's story."""
    draws = pool.places(
        ("draws", _program_key(record)), lambda: [pool.place(line) for line in seeds.draws(_as_story(record))]
    )
    return [pool.place(seeds.root(record.settings["seed"])), *draws]


def _as_story(record: Record) -> dict[str, Any]:
    """The part of a record that `runner.records.seeds` reads."""
    paths = [{"path": leaf.path} for leaf in record.variables]
    return {"settings": record.settings, "streams": record.streams, "variables": paths, "takes_rngs": record.takes_rngs}


def _outputs(record: Record, pool: Pool) -> list[list[Any]]:
    """One entry per array: kind, norm, mean, std, min, max, number of non-finite values, digest."""
    return [
        [
            pool.place(f"{array.path or 'y'} {array.dtype}{literal(array.shape)}"),
            *(number(one) for one in (array.norm, array.mean, array.std, array.min, array.max)),
            array.num_non_finite,
            array.digest[:DIGEST_LETTERS],
        ]
        for array in record.output
    ]


def _steady(record: Record, pool: Pool) -> list[list[Any] | None]:
    """One entry for each of `STEADY`: median, interval bounds, number of samples, flags; None if not measured."""
    measured = [getattr(record.timing, name) if record.timing else None for name in STEADY]
    return [_measured(one, pool) if one is not None else None for one in measured]


def _measured(measurement: Measurement, pool: Pool) -> list[Any]:
    summary = measurement.summary
    numbers = (summary.median_s, summary.median_low_s, summary.median_high_s)
    flags = pool.place(("flags", *summary.flags), lambda: summary.flags)
    return [*(number(one) for one in numbers), summary.num_samples, flags]


def _checks(record: Record, pool: Pool) -> list[int]:
    """One entry per check: name, verdict, detail, fix, evidence as text."""
    return [
        pool.place(
            ("check", check.name, check.verdict, check.detail, check.fix, repr(check.evidence)),
            functools.partial(_check, check),
        )
        for check in record.checks
    ]


def _check(check: Check) -> list[Any]:
    evidence = json.dumps(check.evidence, indent=1, default=str) if check.evidence else ""
    return [check.name, check.verdict.value, check.detail, check.fix, evidence]


def _twins(record: Record, pool: Pool) -> int | None:
    """The parity check's side-by-side measurements: seconds per phase of each variant, and ratios with intervals."""
    evidence = next((check.evidence for check in record.checks if check.name == "parity"), {})
    if "costs" not in evidence:
        return None
    return pool.place(("twins", repr(evidence)), lambda: _side_by_side(evidence))


def _side_by_side(evidence: Mapping[str, Any]) -> dict[str, Any]:
    phases = ("trace_s", "lower_s", "compile_s", "steady_s")
    costs = {
        name: [*(number(cost[phase]) for phase in phases), cost["flags"]] for name, cost in evidence["costs"].items()
    }
    ratios = {
        name: [*(number(ratio[key]) for key in ("median", "low", "high")), ratio["flags"]]
        for name, ratio in evidence["steady_ratio"].items()
    }
    return {"costs": costs, "ratios": ratios, "linen": evidence["linen"]["layer"]}


def _error(record: Record, pool: Pool) -> int | None:
    error = record.error
    if error is None:
        return None
    parts = (error.kind.value, error.type, error.message, error.traceback)
    return pool.place(("error", *parts), lambda: list(parts))


_exact = shared(exact)

# What the page shows of a run besides `TAKEN`.
EXTRA: Mapping[str, Callable[[Record, Pool], Any]] = {
    "settings": lambda record, pool: pairs(record.settings, pool),
    "overrides": lambda record, pool: [pool.place(text) for text in record.overrides],
    "program": _program,
    "digests": lambda record, pool: [leaf.digest[:DIGEST_LETTERS] for leaf in record.variables],
    "outputs": _outputs,
    "steady": _steady,
    "checks": _checks,
    "twins": _twins,
    "story": _story,
    "losses": losses,
    "training": training,
    "error": _error,
    "environment": lambda record, pool: pool.place(
        ("environment", _exact(record.fingerprint)), lambda: record.fingerprint
    ),
}

# Those of `EXTRA` that are lists: empty if a run has no record.
LISTS = ("overrides", "digests", "outputs", "steady", "checks", "story", "losses")
