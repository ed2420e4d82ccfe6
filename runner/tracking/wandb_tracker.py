"""W&B tracker: copies records to offline run files in the sweep's folder, so that no server can block a sweep.

wandb is imported lazily: a process that tracks nothing does not pay for it. `runner.tracking.online` uploads the files
while the sweep runs, `bridge-runner sync` later.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.config.settings.execution import TrackingSettings
from runner.records.disk import plain_files
from runner.records.paths import SweepFolder
from runner.records.record import Head, Record, Status
from runner.tracking import payload, wandb_files
from runner.tracking.preloading import LOADED_BY_FIRST_RUN
from runner.tracking.tracker import Follow
from runner.tracking.wandb_artifacts import log_artifact
from runner.tracking.wandb_live import LiveRun
from runner.tracking.wandb_media import charts, histograms, table_of
from runner.tracking.wandb_runs import LEAN, WandbRuns, environment_of, start_service

# Recorded only in the sweep's own run: the installed packages and the machine.
ONCE_A_SWEEP = frozenset({"x_disable_meta", "x_save_requirements"})


class WandbTracker:
    """One offline W&B run per record, in `folder/wandb`.

    Logging a record again replaces its run: the id is derived from the sweep and the record's `run_id`, and an
    older folder of the same id is removed first.

    Args:
      settings: Tracking settings of the runs.
      folder: The sweep's folder.
      sweep: The sweep's name, used as the group of its runs.
      warn: Called with one sentence at the first failure.
      clock: Nanoseconds from any fixed origin.
    """

    def __init__(
        self,
        settings: TrackingSettings,
        folder: Path,
        sweep: str,
        warn: Callable[[str], None],
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._folder = SweepFolder(folder.resolve())
        self._settings = settings
        self._sweep = sweep
        self._runs = WandbRuns(settings, self._folder, sweep, warn)
        self._clock = clock
        self._followed: dict[str, LiveRun] = {}

    def warm(self) -> None:
        """Imports W&B and starts its service, which takes a second or more."""
        # Any error here recurs in the first run, and is reported there.
        with contextlib.suppress(Exception), environment_of(self._folder.wandb):
            import wandb

            start_service(wandb, silent=True, quiet=True)
            for name in LOADED_BY_FIRST_RUN:
                importlib.import_module(name)

    def follow(self, head: Head, run_dir: Path) -> Follow:
        """Lets a run be followed while it trains; `log` finishes the W&B run that the first losses open.

        A run that ends before reporting any losses costs nothing here.
        """
        return LiveRun(self._runs, self._identity(head, run_dir), self._followed)

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Creates the W&B run of a record.

        Args:
          record: The run's record.
          output: Output arrays by path; empty for a failed run.
          run_dir: The run's folder; the checkpoint's path is relative to it.

        Returns:
          Seconds taken, or None if W&B failed (reported once, through `warn`).
        """
        started = self._clock()
        init = self._identity(record, run_dir, record.status.value)
        followed = self._followed.pop(init["id"], None)
        shown = followed.num_told if followed else 0
        train = record.train
        rows = list(payload.loss_rows(train.losses[shown:], train.first_step + shown)) if train else []
        rows.append(payload.history_of(record) | histograms(record, output))
        saved = {"checkpoint": str(run_dir.resolve() / record.saved.path)} if record.saved else {}
        held: dict[str, Any] = {
            "axes": payload.axes_of(record),
            "rows": rows,
            "summary": payload.summary_of(record) | saved,
        }
        exit_code = 0 if record.status is Status.done else 1
        if followed is None and not self._settings.artifacts:
            began = datetime.datetime.fromisoformat(record.started_at).timestamp()
            made = self._runs.write(init, **held, started_s=began, wall_s=record.wall_s, exit_code=exit_code)
            return (self._clock() - started) / 1e9 if made else None

        def fill(wandb: Any, run: Any) -> None:
            for metric, axis in held["axes"].items():
                run.define_metric(metric, step_metric=axis)
            run.summary.update(held["summary"])
            if self._settings.artifacts:
                rows[-1] |= table_of(wandb, output, self._settings.table_max_elements)
                log_artifact(wandb, run, record, run_dir, self._settings)
            for row in rows:
                run.log({key: _medium(wandb, value) for key, value in row.items()})

        opened = followed.run if followed else None
        made = self._runs.make(fill, LEAN, init, opened=opened, exit_code=exit_code)
        return (self._clock() - started) / 1e9 if made else None

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the sweep's own run: all `rows` as a table, charts of them, and the report if there is one.

        Args:
          name: Name of the run.
          rows: One mapping per run, column to value; a run with `status` `failed` has failed.
        """

        def fill(wandb: Any, run: Any) -> None:
            run.define_metric(f"{payload.SWEEP}/*", step_metric=f"{payload.SWEEP}/num")
            for row in payload.sweep_history(rows):
                run.log(row)
            run.summary.update(payload.sweep_summary(rows, results_digest(self._folder)))
            columns = list(dict.fromkeys(key for row in rows for key in row))
            data = [[payload.cell(row.get(column)) for column in columns] for row in rows]
            run.log({"runs": wandb.Table(columns=columns, data=data, allow_mixed_types=True)} | charts(wandb, rows))
            if self._folder.report.exists():
                artifact = wandb.Artifact(f"report-{run.id}", type="report")
                artifact.add_file(str(self._folder.report))
                run.log_artifact(artifact)

        settings = {key: value for key, value in LEAN.items() if key not in ONCE_A_SWEEP}
        run_id = wandb_files.wandb_id(self._sweep, "sweep")
        notes = self._settings.notes or f"bridge-runner ls {self._folder.path}"
        init = {"id": run_id, "name": name, "job_type": "sweep", "tags": ["sweep"], "notes": notes}
        self._runs.make(fill, settings, init)

    def close(self) -> None:
        """Stops this process's W&B service; everything logged is then in the files."""
        if "wandb" not in sys.modules:
            return  # importing it takes most of a second
        # A service that can't write everything exits with a code that wandb passes to sys.exit.
        with contextlib.suppress(Exception, SystemExit):
            import wandb

            wandb.teardown()

    def _identity(self, run: Head | Record, run_dir: Path, *tags: str) -> dict[str, Any]:
        """Arguments to open a run's W&B run with."""
        return {
            "id": wandb_files.wandb_id(self._sweep, run.run_id[:12]),
            "name": f"{run.num}-{run.layer}-s{run.settings.get('seed')}",
            "job_type": run.layer,
            "tags": [run.layer, run.platform, *tags, *([run.host] if run.host else [])],
            "config": payload.config_of(run),
            "notes": self._settings.notes or f"{payload.sentence_of(run)}. bridge-runner show {run_dir}",
        }


def _medium(wandb: Any, value: Any) -> Any:
    """A histogram as W&B's own object: `log` takes no dict for one."""
    if not isinstance(value, dict):
        return value
    return wandb.Histogram(np_histogram=(np.array(value["values"]), np.array(value["bins"])))


def results_digest(folder: SweepFolder) -> str | None:
    """SHA-256 of the sweep's results table: the sweep's own run is recreated if the table has changed.

    Raises:
      OSError: It can't be read, or is no file.
    """
    return hashlib.sha256(plain_files.read_bytes(folder.results)).hexdigest() if folder.results.exists() else None
