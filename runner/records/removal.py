"""Removes the checkpoint of a run, and says that it was removed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from runner.records.paths import RunFolder
from runner.records.record import Record


def sentence(record: Record) -> str | None:
    """That the checkpoint of a run was removed, and by which setting; None where it was not."""
    why = record.checkpoint and record.checkpoint.removed
    return f"its checkpoint was removed by retention ({why})" if why else None


def again(record: Record) -> str:
    """What to type to have the checkpoint of a run once more."""
    return " ".join(["bridge-runner", *record.overrides, "sweep=again"])


def remove_checkpoint(folder: RunFolder) -> None:
    """Removes the checkpoints of a run whose record says so and is on the disk."""
    descriptor = os.open(folder.path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for path in folder.checkpoints:
        shutil.rmtree(path, ignore_errors=True)


def is_of_checkpoint(name: str) -> bool:
    """Whether a file of a run's folder, by its relative path, is one of a checkpoint's."""
    return name.partition("/")[0] in {path.name for path in RunFolder(Path()).checkpoints}
