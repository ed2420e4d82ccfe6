"""Turns the sweeps of a folder into data for its index page. Pure: plans and rows in, JSON data out; no JAX."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from runner.errors import literal
from runner.records import find, plan_form
from runner.records.record import Status
from runner.records.row import Row
from runner.report.html.pool import number

# What tells kinds of runs apart over sweeps; the seed does not.
KIND = ("layer", "host", "input_shape", "features", "device")

# Values of a kind in a sweep; more tell nothing more.
MAX_VALUES = 200

METRICS: Mapping[str, str] = {
    "apply_s": "apply, one blocking call",
    "loss_last": "last loss",
    "output_norm": "output norm",
    "checkpoint_bytes": "saved",
}


def entry(plan: Mapping[str, Any], rows: Sequence[Row], link: str, *, has_report: bool) -> dict[str, Any]:
    """One sweep: what was asked, how it went, and the values of each kind of its runs.

    Args:
      plan: The sweep's plan, as in `sweep.json`.
      rows: Its runs.
      link: The sweep's folder, from the page's.
      has_report: Whether its report is there.
    """
    counts = Counter(row.status for row in rows)
    command = plan["origin"].get("command")
    return {
        "name": plan["sweep"],
        "link": link,
        "has_report": has_report,
        "written_at": plan["written_at"][:16].replace("T", " "),
        "command": " ".join(command) if plan_form.are_words(command) else "",
        "layers": list(dict.fromkeys(row.layer for row in rows)),
        "num_runs": len(rows),
        "done": counts[Status.done.value],
        "failed": counts[Status.failed.value],
        "waiting": counts[find.MISSING],
        "kinds": _kinds([row for row in rows if row.status == Status.done.value]),
    }


def damaged(name: str, reason: str) -> dict[str, Any]:
    """A sweep that can't be read."""
    return {"name": name, "error": reason}


def data(folder: str, sweeps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that the index page shows: the sweeps, oldest first, and what of a kind differs between them."""
    kinds = [kind["settings"] for sweep in sweeps for kind in sweep.get("kinds", ())]
    varied = [key for key in KIND if len({literal(kind[key]) for kind in kinds}) > 1]
    return {"head": {"folder": folder}, "sweeps": list(sweeps), "varied": varied, "metrics": dict(METRICS)}


def _kinds(rows: Sequence[Row]) -> list[dict[str, Any]]:
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[literal(_settings(row))].append(row)
    return [{"settings": _settings(same[0]), "values": _values(same)} for same in found.values()]


def _settings(row: Row) -> dict[str, Any]:
    typed = {key: literal(row.settings.get(key)) for key in ("input_shape", "features")}
    host = (row.settings.get("host") or {}).get("name") or "none"
    return {"layer": row.layer, "host": host, **typed, "device": row.device}


def _values(rows: Sequence[Row]) -> dict[str, list[Any]]:
    step = -(-len(rows) // MAX_VALUES)
    values = {name: [number(getattr(row, name)) for row in rows[::step]] for name in METRICS}
    return {name: [one for one in known if one is not None] for name, known in values.items() if any(known)}
