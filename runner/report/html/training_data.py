"""What the page shows of a run's training: its losses, thinned, and the phases of its step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runner.records.record import Record
from runner.report.html.pool import Pool, number

# Maximum number of losses on the page: per run, and in total.
MAX_CURVE_POINTS = 200
MAX_POINTS = 200_000


def losses(record: Record, pool: Pool) -> list[float | None]:
    """The loss of every step; empty if nothing was trained."""
    return [number(loss) for loss in record.train.losses] if record.train else []


def training(record: Record, pool: Pool) -> int | None:
    """A run's first training step, what training left, and the phases of a step."""
    train = record.train
    if train is None:
        return None
    step = train.step
    phases = {"trace": step.trace_s, "lower": step.lower_s, "compile": step.compile_s, "first call": step.first_call_s}
    found = {
        "first": train.first_step,
        "not_moved": train.not_moved,
        "contended": step.contended,
        "phases": {name: number(seconds) for name, seconds in phases.items()},
    }
    return pool.place(("training", repr(found)), lambda: found)


def thinned(curves: Sequence[list[Any]]) -> list[list[Any]]:
    """Pairs of step (counted from the run's first) and loss, thinned to what the page can hold; endpoints are kept."""
    num_curves = sum(bool(curve) for curve in curves)
    most = max(2, min(MAX_CURVE_POINTS, MAX_POINTS // max(1, num_curves)))
    return [[[step, curve[step]] for step in _steps(len(curve), most)] for curve in curves]


def _steps(num: int, most: int) -> Iterable[int]:
    if num <= most:
        return range(num)
    return [round(index * (num - 1) / (most - 1)) for index in range(most)]
