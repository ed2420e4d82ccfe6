"""TensorBoard tracker: one folder of event files per record, written without TensorFlow; hparams show the sweep."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runner.config.dotted_keys import flatten
from runner.config.settings.execution import TrackingSettings
from runner.errors import literal
from runner.records.paths import SweepFolder
from runner.records.record import Record
from runner.tracking import payload
from runner.tracking.tracker import NullTracker


class TensorboardTracker(NullTracker):
    """One TensorBoard run per record, in `folder/tensorboard`; logging a record again replaces its run."""

    def __init__(self, settings: TrackingSettings, folder: Path, sweep: str, warn: Callable[[str], None]) -> None:
        import tensorboardX

        self._package: Any = tensorboardX
        self._folder = SweepFolder(folder).tensorboard
        self._warn = warn

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Writes scalars, loss curve, output histogram, settings and hparams; returns the seconds taken."""
        started = time.perf_counter()
        try:
            shutil.rmtree(self._folder / run_dir.name, ignore_errors=True)
            with self._package.SummaryWriter(str(self._folder / run_dir.name)) as writer:
                self._fill(writer, record, output)
        except Exception as error:  # noqa: BLE001 - a replica: whatever is raised, the run itself is well
            self._warn(f"TensorBoard run {run_dir.name} is missing or incomplete: {type(error).__name__}: {error}")
            return None
        return time.perf_counter() - started

    def _fill(self, writer: Any, record: Record, output: Mapping[str, np.ndarray]) -> None:
        numbers = {key: value for key, value in payload.summary_of(record).items() if type(value) in (int, float)}
        for key, value in numbers.items():
            writer.add_scalar(key, value, 0)
        train = record.train
        for row in payload.loss_rows(train.losses, train.first_step) if train else ():
            writer.add_scalar("train/loss", float(row["train/loss"]), row["train/step"])
        for path, array in output.items():
            if histogram := payload.histogram_of(array):
                (counts, edges), values = histogram, payload.finite_values(array)
                drawn = (edges[0], edges[-1], counts.sum(), values.sum(), values @ values, edges[1:], counts, 0)
                writer.add_histogram_raw(f"{payload.output_key(path, len(output))}/histogram", *drawn)
        settings = flatten(payload.config_of(record))
        writer.add_text("settings", "\n".join(f"    {key}={literal(item)}" for key, item in settings.items()), 0)
        metrics = {key: numbers[key] for key in (payload.NORM, payload.APPLY_MS) if key in numbers}
        for part in self._package.summary.hparams({key: payload.cell(item) for key, item in settings.items()}, metrics):
            writer.file_writer.add_summary(part)
