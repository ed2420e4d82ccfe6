"""MLflow tracker: one MLflow run per record, and one for the sweep, in an experiment of the sweep's name."""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.config.dotted_keys import flatten
from runner.config.settings.execution import TrackingSettings
from runner.errors import literal
from runner.records import codec
from runner.records.paths import SweepFolder
from runner.records.record import Record, Status
from runner.tracking import payload
from runner.tracking.tracker import Attempts, NullTracker

# Tags by which a run is found again.
RUN_ID, SWEEP = "bridge_runner.run_id", "bridge_runner.sweep"
WHOLE = "sweep"

# What a server takes in one request, and in one value.
MAX_METRICS, MAX_PARAMS, MAX_CHARACTERS = 1000, 100, 500


class MlflowTracker(NullTracker):
    """One MLflow run per record; logging a record again replaces its run.

    Runs go to `tracking.options.uri`, else to MLFLOW_TRACKING_URI, else to `mlflow.db` next to the sweep's folder, so
    that all sweeps of an output folder are one database: making one takes MLflow seconds.
    """

    def __init__(self, settings: TrackingSettings, folder: Path, sweep: str, warn: Callable[[str], None]) -> None:
        self._settings = settings
        self._folder = SweepFolder(folder.resolve())
        self._sweep = sweep
        self._attempts = Attempts("MLflow", warn)
        self._opened: tuple[Any, str, dict[str, str]] | None = None

    @staticmethod
    def look(settings: TrackingSettings, folder: Path) -> str:
        """The command that shows the runs."""
        return f"mlflow ui --backend-store-uri {_uri(settings, folder)}"

    def warm(self) -> None:
        """Imports MLflow and opens its database, which takes seconds."""
        self._attempts.succeeds(WHOLE, self._open)

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Creates the MLflow run of a record; returns the seconds taken, or None if MLflow failed."""
        started = time.perf_counter()

        def make() -> None:
            tags = {SWEEP: record.sweep, "layer": record.layer, "platform": record.platform}
            tags |= {"host": record.host} if record.host else {}
            tags |= {"program": str(payload.config_of(record)["program"])} | dict.fromkeys(self._settings.tags, "true")
            began = datetime.datetime.fromisoformat(record.started_at).timestamp()
            name = f"{record.num}-{record.layer}-s{record.settings.get('seed')}"
            run_id = self._create(
                record.run_id, name, began, tags | {"mlflow.note.content": self._notes(record, run_dir)}
            )
            self._log_values(run_id, record, began)
            if self._settings.artifacts:
                self._log_files(run_id, record, run_dir)
            self._end(run_id, done=record.status is Status.done, ended=began + record.wall_s)

        return time.perf_counter() - started if self._attempts.succeeds(record.run_id[:12], make) else None

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Creates the sweep's own run: all `rows` as a table, `runs.json`, and the report if there is one."""

        def make() -> None:
            now = time.time()
            notes = {"mlflow.note.content": self._settings.notes or f"bridge-runner ls {self._folder.path}"}
            run_id = self._create(WHOLE, name, now, {SWEEP: name} | notes)
            client, _, _ = self._open()
            columns = list(dict.fromkeys(key for row in rows for key in row))
            data = [[payload.cell(row.get(column)) for column in columns] for row in rows]
            client.log_dict(run_id, {"columns": columns, "data": data}, "runs.json")
            if self._folder.report.exists():
                client.log_artifact(run_id, str(self._folder.report))
            for key, value in payload.sweep_summary(rows).items():
                client.log_metric(run_id, key, value)
            self._end(run_id, done=True, ended=now)

        self._attempts.succeeds(WHOLE, make)

    def _notes(self, record: Record, run_dir: Path) -> str:
        return self._settings.notes or f"{payload.sentence_of(record)}. bridge-runner show {run_dir}"

    def _create(self, key: str, name: str, began: float, tags: Mapping[str, str]) -> str:
        """Opens the run that `key` is found by, and deletes an older one."""
        client, experiment, known = self._open()
        if stale := known.pop(key, None):
            client.delete_run(stale)
        named = {"run_name": name, "tags": dict(tags) | {RUN_ID: key}}
        known[key] = client.create_run(experiment, start_time=int(began * 1000), **named).info.run_id
        return known[key]

    def _log_values(self, run_id: str, record: Record, began: float) -> None:
        from mlflow.entities import Metric, Param, RunTag

        client, _, _ = self._open()
        at = int((began + record.wall_s) * 1000)
        values = payload.summary_of(record)
        numbers = {key: value for key, value in values.items() if type(value) in (int, float)}
        metrics = [Metric(key, float(value), at, 0) for key, value in numbers.items()]
        train = record.train
        for row in payload.loss_rows(train.losses, train.first_step) if train else ():
            metrics.append(Metric(payload.LOSS, float(row[payload.LOSS]), at, row[f"{payload.TRAIN}/step"]))
        settings = flatten(payload.config_of(record))
        params = [Param(key, literal(value)[:MAX_CHARACTERS]) for key, value in settings.items()]
        texts = [RunTag(key, value) for key, value in values.items() if isinstance(value, str)]
        for batch in _batches(metrics, MAX_METRICS):
            client.log_batch(run_id, metrics=batch)
        for batch in _batches(params, MAX_PARAMS):
            client.log_batch(run_id, params=batch)
        for batch in _batches(texts, MAX_PARAMS):
            client.log_batch(run_id, tags=batch)

    def _log_files(self, run_id: str, record: Record, run_dir: Path) -> None:
        """Logs the run's folder, so that another machine can reload the run; not if it is too large."""
        paths = [path for path in (run_dir / name for name in record.files) if path.is_file()]
        if sum(path.stat().st_size for path in paths) > self._settings.artifact_max_bytes:
            return
        client, _, _ = self._open()
        client.log_text(run_id, codec.to_json(record).decode(), "run/record.json")
        for path in paths:
            client.log_artifact(run_id, str(path), f"run/{path.parent.relative_to(run_dir)}".removesuffix("/."))

    def _end(self, run_id: str, *, done: bool, ended: float) -> None:
        client, _, _ = self._open()
        client.set_terminated(run_id, "FINISHED" if done else "FAILED", int(ended * 1000))

    def _open(self) -> tuple[Any, str, dict[str, str]]:
        """The client, the experiment's id, and its runs of this sweep: MLflow's id by ours."""
        if self._opened is None:
            # It sends usage statistics, unless told not to; the user's own value wins.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            from mlflow.tracking import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            uri = _uri(self._settings, self._folder.path)
            client = MlflowClient(tracking_uri=uri)
            name = self._settings.project or self._sweep
            there = client.get_experiment_by_name(name)
            local = (self._folder.path.parent / "mlflow-artifacts").as_uri() if uri.startswith("sqlite:") else None
            experiment = there.experiment_id if there else client.create_experiment(name, artifact_location=local)
            self._opened = client, experiment, dict(_runs(client, experiment, self._sweep))
        return self._opened


def _uri(settings: TrackingSettings, folder: Path) -> str:
    named = settings.options.get("uri") or os.environ.get("MLFLOW_TRACKING_URI")
    return str(named or f"sqlite:///{folder.resolve().parent / 'mlflow.db'}")


def _runs(client: Any, experiment: str, sweep: str) -> Iterator[tuple[str, str]]:
    """Our id and MLflow's of each run of the sweep."""
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            if run.data.tags.get(SWEEP) == sweep and RUN_ID in run.data.tags:
                yield run.data.tags[RUN_ID], run.info.run_id
        token = page.token
        if not token:
            return


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
