"""Removes a run's checkpoint, and reports that it was removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from runner.records.disk import flush
from runner.records.paths import RunFolder
from runner.records.record import Record


def sentence(record: Record) -> str | None:
    """States that a run's checkpoint was removed, and by which setting; None if it was not."""
    why = record.checkpoint and record.checkpoint.removed
    return f"its checkpoint was removed by retention ({why})" if why else None


def again(record: Record) -> str:
    """The command that recreates a run's checkpoint."""
    return " ".join(["bridge-runner", *record.overrides, "sweep=again"])


def remove_checkpoint(folder: RunFolder) -> None:
    """Removes the checkpoints of a run whose record, already on disk, says so."""
    flush.flush(folder.path)
    for path in folder.checkpoints:
        shutil.rmtree(path, ignore_errors=True)


def is_of_checkpoint(name: str) -> bool:
    """Whether a file of a run's folder, given by relative path, belongs to a checkpoint."""
    return name.partition("/")[0] in {path.name for path in RunFolder(Path()).checkpoints}
