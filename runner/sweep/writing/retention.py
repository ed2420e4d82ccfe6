"""Checkpoint retention in a sweep: all, the last N, or the best N by a metric of the record.

A checkpoint is removed as soon as N others that rank above it are on disk, so a sweep never needs space for many more
than N. Its run stays done. The record is updated first, with the reason, and the files are deleted after: a kill in
between leaves files that nothing refers to, never a record that names missing files.
"""

from __future__ import annotations

import dataclasses
import math

from runner.config.enums import Keep, Mode
from runner.config.settings.train import CheckpointSettings
from runner.records import metrics, store
from runner.records.disk import removal
from runner.records.metrics import Metric
from runner.records.paths import RunFolder
from runner.records.record import CheckpointInfo, Record


class Keeper:
    """Removes the checkpoints of one sweep that need not be kept.

    Args:
      settings: Which checkpoints to keep.
    """

    def __init__(self, settings: CheckpointSettings) -> None:
        self._settings = settings
        self._kept: list[tuple[tuple[float, int], Record, RunFolder]] = []

    @property
    def removes(self) -> bool:
        """Whether a checkpoint may ever be removed."""
        return self._settings.num_kept is not None

    def add(self, record: Record, folder: RunFolder) -> list[tuple[Record, RunFolder]]:
        """Adds a run whose record is on disk.

        Returns:
          The runs that lose their checkpoint as a result, with their new records, which are already written.
        """
        if not self.removes or record.checkpoint is None:
            return []
        if record.checkpoint.removed is not None:
            removal.remove_checkpoint(folder)  # a kill may have come in between
            return []
        self._kept = [one for one in self._kept if one[2] != folder]
        self._kept.append((self._place(record), record, folder))
        self._kept.sort(key=lambda one: one[0])
        surplus = self._kept[self._settings.num_kept :]
        del self._kept[self._settings.num_kept :]
        return [(self._remove(folder), folder) for _, _, folder in surplus]

    def _place(self, record: Record) -> tuple[float, int]:
        """The sort key of a run, best first; ties go to the earlier run of the sweep."""
        if self._settings.rule is Keep.last:
            return (0.0, -record.num)
        value = _metric(self._settings).of(record)
        if value is None or math.isnan(value):
            return (math.inf, record.num)
        return (value if self._settings.mode is Mode.min else -value, record.num)

    def _remove(self, folder: RunFolder) -> Record:
        # Not the record that was added: it may have been rewritten since.
        record = without_checkpoint(store.read_record(folder), self._settings.sentence)
        store.write_record(folder, record)
        removal.remove_checkpoint(folder)
        return record


def without_checkpoint(record: Record, why: str) -> Record:
    """`record`, its checkpoint marked as removed, and why."""

    def removed(saved: CheckpointInfo | None) -> CheckpointInfo | None:
        return saved and dataclasses.replace(saved, removed=why)

    train = record.train and dataclasses.replace(record.train, state=removed(record.train.state))
    files = {name: digest for name, digest in record.files.items() if not removal.is_of_checkpoint(name)}
    return dataclasses.replace(record, checkpoint=removed(record.checkpoint), train=train, files=files)


def require(settings: CheckpointSettings) -> None:
    """Validates that every record has a field for the metric.

    Raises:
      ConfigError: The metric is neither a numeric column nor the path of a number.
    """
    if settings.rule is Keep.best:
        _metric(settings)


def _metric(settings: CheckpointSettings) -> Metric:
    return metrics.find(str(settings.metric), "checkpoint.metric")
