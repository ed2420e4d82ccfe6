"""What is said of a run whose checkpoint was removed."""

from __future__ import annotations

from runner.records.record import Record


def sentence(record: Record) -> str | None:
    """That the checkpoint of a run was removed, and by which setting; None where it was not."""
    why = record.checkpoint and record.checkpoint.removed
    return f"its checkpoint was removed by retention ({why})" if why else None


def again(record: Record) -> str:
    """What to type to have the checkpoint of a run once more."""
    return " ".join(["bridge-runner", *record.overrides, "sweep=again"])
