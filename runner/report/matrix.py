"""The checks of a sweep as a Markdown table: one row per program, one column per check. Pure; no JAX."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence

from runner.errors import literal
from runner.records.record import Record, Verdict
from runner.records.row import row_of
from runner.report import table

# In the order in which `runner.checks` runs them; repeated here so that no table needs JAX.
CHECKS = (
    "complete",
    "nothing_invented",
    "streams",
    "mutable",
    "trained",
    "used",
    "pure",
    "seeded",
    "mode",
    "rules",
    "axes",
    "pipeline",
    "parity",
    "lifts",
    "checkpoint",
    "sharding",
    "traps",
)

NOT_TESTED = "–"

VERSIONS = ("flax", "jax", "jaxlib", "orbax-checkpoint", "python")

# Changing the seed does not change the program.
NOT_OF_A_PROGRAM = ("seed",)


def remember(record: Record, programs: MutableMapping[str, Record]) -> None:
    """Keeps the first record of each program that has check results, without its arrays: there may be many programs."""
    kept = programs.get(record.program_id)
    if kept is None or (not _program_checks(kept) and _program_checks(record)):
        programs[record.program_id] = dataclasses.replace(record, variables=[], updated=[], output=[], timing=None)


def to_markdown(records: Iterable[Record]) -> str | None:
    """The verdicts as a page: versions and dates, the table, and a line for every fail, then every warning.

    Args:
      records: One per program.

    Returns:
      The page; None if there is nothing to compare: no checks were run, or only some, on one layer.
    """
    rows = sorted(records, key=lambda record: record.num)
    asked = [check for check in CHECKS if any(check in _program_checks(record) for record in rows)]
    one_layer = len({record.layer for record in rows}) < 2
    if not asked or (one_layer and not any(_depth(record) == "full" for record in rows)):
        return None
    names = _row_names(rows)
    lines = [f"# Checks about {len(rows)} program{'s' if len(rows) > 1 else ''}", "", *_heads(rows), ""]
    lines += [_line(["layer", *asked]), _line(["---"] * (len(asked) + 1))]
    for name, record in zip(names, rows, strict=True):
        lines.append(_line([_escaped(name), *(_cell(record, check) for check in asked)]))
    notes = _notes(dict(zip(names, rows, strict=True)), asked)
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _program_checks(record: Record) -> Mapping[str, tuple[Verdict, str]]:
    return {check.name: (check.verdict, check.detail) for check in record.checks if check.name in CHECKS}


def _depth(record: Record) -> str | None:
    return record.settings.get("checks", {}).get("depth")


def _heads(rows: Sequence[Record]) -> list[str]:
    """One line per set of versions and kind of device, with the dates of its records."""
    days: dict[str, set[str]] = {}
    for record in rows:
        known = record.fingerprint.get("versions", {})
        versions = [f"{name} {known[name]}" for name in VERSIONS if known.get(name)]
        days.setdefault(" · ".join([*versions, record.platform]), set()).add(record.started_at[:10])
    return [f"{_escaped(head)} · {' to '.join(sorted({min(found), max(found)}))}" for head, found in days.items()]


def _row_names(rows: Sequence[Record]) -> list[str]:
    """The layer's name, plus what distinguishes its programs if it has several."""
    names = []
    for record in rows:
        alike = [row_of(other) for other in rows if other.layer == record.layer]
        keys = [key for key in table.shown_keys(alike) if key not in NOT_OF_A_PROGRAM] if len(alike) > 1 else []
        values = table.values_of(row_of(record))
        names.append(" ".join([record.layer, *(f"{key}={literal(values.get(key))}" for key in keys)]))
    return names


def _cell(record: Record, check: str) -> str:
    verdict, _ = _program_checks(record).get(check, (Verdict.skipped, ""))
    return NOT_TESTED if verdict is Verdict.skipped else verdict.value


def _notes(rows: Mapping[str, Record], asked: Sequence[str]) -> list[str]:
    """One line per message, naming all layers that share it; failed checks first."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for verdict in (Verdict.fail, Verdict.warn):
        for check in asked:
            for name, record in rows.items():
                found, detail = _program_checks(record).get(check, (Verdict.skipped, ""))
                if found is verdict:
                    said.setdefault((check, verdict.value, detail), []).append(name)
    notes = [
        f"- {check}, {verdict}: {_escaped(', '.join(names))}: {_escaped(detail)}"
        for (check, verdict, detail), names in said.items()
    ]
    failed = [(name, row_of(record).error or "") for name, record in rows.items() if record.error is not None]
    return [*(f"- the run of {_escaped(name)} failed: {_escaped(error)}" for name, error in failed), *notes]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """`text` on one line, with Markdown syntax escaped."""
    return re.sub(r"([\\|<*`\[\]])", r"\\\1", " ".join(text.split()))
