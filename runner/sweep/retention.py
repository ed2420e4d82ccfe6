"""Which checkpoints of a sweep stay: all, the last N, or the best N by a number of the record.

A checkpoint goes as soon as N others that come before it are on the disk: a sweep never takes room for many more than
N. Its run stays done. First the record says that the checkpoint is removed and why, then the files go: a kill in
between leaves files that nobody counts on, and no record that names what is not there.
"""

from __future__ import annotations

import dataclasses
import math

from runner.config.enums import Keep, Mode
from runner.config.train_settings import CheckpointSettings
from runner.records import metrics, removal, store
from runner.records.metrics import Metric
from runner.records.paths import RunFolder
from runner.records.record import CheckpointInfo, Record


class Keeper:
    """Removes the checkpoints of one sweep that are not to be kept.

    Args:
      settings: What is kept.
    """

    def __init__(self, settings: CheckpointSettings) -> None:
        self._settings = settings
        self._kept: list[tuple[tuple[float, int], Record, RunFolder]] = []

    @property
    def removes(self) -> bool:
        """Whether a checkpoint may ever be removed."""
        return self._settings.num_kept is not None

    def add(self, record: Record, folder: RunFolder) -> list[tuple[Record, RunFolder]]:
        """Takes one run more whose record is on the disk.

        Returns:
          The runs that lose their checkpoint by it, with their new records, which are written.
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
        """What the runs are sorted by, those to be kept first; of equal ones the first of the sweep stays."""
        if self._settings.rule is Keep.last:
            return (0.0, -record.num)
        value = _metric(self._settings).of(record)
        if value is None or math.isnan(value):
            return (math.inf, record.num)
        return (value if self._settings.mode is Mode.min else -value, record.num)

    def _remove(self, folder: RunFolder) -> Record:
        # Not the record that was added: meanwhile it may have been written anew.
        record = without_checkpoint(store.read_record(folder), self._settings.sentence)
        store.write_record(folder, record)
        removal.remove_checkpoint(folder)
        return record


def without_checkpoint(record: Record, why: str) -> Record:
    """The record of a run whose checkpoint is removed."""

    def removed(saved: CheckpointInfo | None) -> CheckpointInfo | None:
        return saved and dataclasses.replace(saved, removed=why)

    train = record.train and dataclasses.replace(record.train, state=removed(record.train.state))
    files = {name: digest for name, digest in record.files.items() if not removal.is_of_checkpoint(name)}
    return dataclasses.replace(record, checkpoint=removed(record.checkpoint), train=train, files=files)


def require(settings: CheckpointSettings) -> None:
    """Judges whether every record has a place for the metric.

    Raises:
      ConfigError: It is neither a column of numbers nor the path of a number.
    """
    if settings.rule is Keep.best:
        _metric(settings)


def _metric(settings: CheckpointSettings) -> Metric:
    return metrics.find(str(settings.metric), "checkpoint.metric")
