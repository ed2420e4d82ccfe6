"""W&B runs: a replica of the records, as files in the sweep's folder, so that no server can hold a sweep up.

wandb is imported inside functions only: a process that tracks nothing does not pay for it. `runner.tracking_online`
sends the files while the sweep goes on, `bridge-runner sync` later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.config.run_settings import TrackingSettings
from runner.errors import literal
from runner.records.paths import SweepFolder
from runner.records.record import Head, Record, Status
from runner.tracking import payload, wandb_files
from runner.tracking.tracker import Follow

# 12-25 ms a run with these, 55-80 ms by default, most of it listing installed packages. Symlinks to the latest run
# would be fought over by the processes of a sweep.
LEAN = {"silent": True, "quiet": True, "console": "off", "disable_git": True, "save_code": False, "symlink": False}
LEAN |= {"x_disable_stats": True, "x_disable_meta": True, "x_save_requirements": False}
LEAN |= {"x_transaction_log_flush_interval": 0.5, "finish_timeout": 10.0}

# What the run of the sweep has all the same, once: the installed packages and the machine.
ONCE_A_SWEEP = frozenset({"x_disable_meta", "x_save_requirements"})

# What W&B imports in `init` and for a table; not everybody has pandas.
LOADED_BY_FIRST_RUN = ("wandb.sdk.launch.inputs.internal", "pandas")

MAX_TAG_CHARACTERS = 64


class WandbTracker:
    """One offline W&B run a record, in `folder/wandb`.

    A record that is logged again replaces its run: the id is made from the sweep and the record's `run_id`, and an
    older folder of the same id is removed first.

    Args:
      settings: What the runs carry.
      folder: The sweep's folder.
      sweep: The sweep's name, the group of its runs.
      warn: Takes one sentence, the first time that something fails.
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
        self._warn = warn
        self._clock = clock
        self._warned = False
        self._followed: dict[str, _Following] = {}

    def warm(self) -> None:
        """Loads W&B and starts its service, which takes a second and more."""
        # What goes wrong here goes wrong for the first run too, and is said there.
        with contextlib.suppress(Exception), environment_of(self._folder.wandb):
            import wandb

            wandb.setup(settings=wandb.Settings(silent=True, quiet=True))
            for name in LOADED_BY_FIRST_RUN:
                importlib.import_module(name)

    def follow(self, head: Head, run_dir: Path) -> Follow:
        """Where a run can be followed while it trains; `log` ends the W&B run that the first losses open.

        A run that is over before anybody is told of it costs nothing here.
        """
        return _Following(self, self._named(head, run_dir))

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Makes the W&B run of a record.

        Args:
          record: What the run left.
          output: Arrays of the output by path; empty for a failed run.
          run_dir: The run's folder; the checkpoint's path is relative to it.

        Returns:
          Seconds it took, or None where W&B failed (said once, through `warn`).
        """
        started = self._clock()
        init = self._named(record, run_dir, record.status.value)
        followed = self._followed.get(init["id"])
        told = followed.num_told if followed else 0

        def fill(wandb: Any, run: Any) -> None:
            for metric, axis in payload.axes_of(record).items():
                run.define_metric(metric, step_metric=axis)
            run.summary.update(payload.summary_of(record))
            train = record.train
            for row in payload.loss_rows(train.losses[told:], train.first_step + told) if train else ():
                run.log(row)
            run.log(payload.history_of(record) | _media(wandb, record, output, self._settings.table_max_elements))
            if record.checkpoint and (path := run_dir / record.checkpoint.path).exists():
                metadata = dataclasses.asdict(record.checkpoint)
                artifact = wandb.Artifact(f"checkpoint-{run.id}", type="checkpoint", metadata=metadata)
                # W&B's own checksum costs 100 ms for 50 MB; the record's digest is in the metadata.
                artifact.add_reference(path.resolve().as_uri(), checksum=False)
                run.log_artifact(artifact)

        made = self._make_run(fill, LEAN, exit_code=0 if record.status is Status.done else 1, **init)
        return (self._clock() - started) / 1e9 if made else None

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Makes the run of the sweep: all `rows` as a table, charts over them, and the report where there is one.

        Args:
          name: What the run is called.
          rows: One mapping a run, column to value; a run failed where its `status` is `failed`.
        """

        def fill(wandb: Any, run: Any) -> None:
            run.define_metric(f"{payload.SWEEP}/*", step_metric=f"{payload.SWEEP}/num")
            for row in payload.sweep_history(rows):
                run.log(row)
            run.summary.update(payload.sweep_summary(rows, results_digest(self._folder)))
            columns = list(dict.fromkeys(key for row in rows for key in row))
            data = [[payload.cell(row.get(column)) for column in columns] for row in rows]
            run.log({"runs": wandb.Table(columns=columns, data=data, allow_mixed_types=True)} | _charts(wandb, rows))
            if self._folder.report.exists():
                artifact = wandb.Artifact(f"report-{run.id}", type="report")
                artifact.add_file(str(self._folder.report))
                run.log_artifact(artifact)

        settings = {key: value for key, value in LEAN.items() if key not in ONCE_A_SWEEP}
        run_id = wandb_files.wandb_id(self._sweep, "sweep")
        notes = self._settings.notes or f"bridge-runner ls {self._folder.path}"
        self._make_run(fill, settings, id=run_id, name=name, job_type="sweep", tags=["sweep"], notes=notes)

    def close(self) -> None:
        """Ends W&B's service of this process; what it was told is then in the files."""
        if "wandb" not in sys.modules:
            return  # loading it takes most of a second
        # A service that can't write everything ends with a code that wandb hands to sys.exit.
        with contextlib.suppress(Exception, SystemExit):
            import wandb

            wandb.teardown()

    def _named(self, run: Head | Record, run_dir: Path, *tags: str) -> dict[str, Any]:
        """What the W&B run of one run is opened with."""
        return {
            "id": wandb_files.wandb_id(self._sweep, run.run_id[:12]),
            "name": f"{run.num}-{run.layer}-s{run.settings.get('seed')}",
            "job_type": run.layer,
            "tags": [run.layer, run.platform, *tags, *([run.host] if run.host else [])],
            "config": payload.config_of(run),
            "notes": self._settings.notes or f"bridge-runner show {run_dir}",
        }

    def _make_run(
        self, fill: Callable[[Any, Any], None], settings: Mapping[str, Any], *, exit_code: int = 0, **init: Any
    ) -> bool:
        with self._warning_once(init["id"]), environment_of(self._folder.wandb):
            import wandb

            followed = self._followed.pop(init["id"], None)
            run = self._open(init, settings) if followed is None else followed.run
            try:
                if followed is not None:
                    run.tags = self._tags(init)
                fill(wandb, run)
            finally:
                run.finish(exit_code=exit_code)
            return True
        return False

    @contextlib.contextmanager
    def _warning_once(self, wandb_id: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - W&B is a replica: whatever it raises, the run itself is well
            if not self._warned:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._warn(f"W&B run {wandb_id} is missing or incomplete: {reason}")
            self._warned = True

    def _open(self, init: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
        """An open W&B run; an older folder of the same id is removed first."""
        import wandb

        # Where it can't be written, wandb would silently take the system's temporary folder.
        self._folder.wandb.mkdir(parents=True, exist_ok=True)
        if stale := self._folders.pop(init["id"], None):
            shutil.rmtree(stale)
        known = {key: value for key, value in settings.items() if key in wandb.Settings.model_fields}
        more: dict[str, Any] = {"group": self._sweep, "dir": str(self._folder.path), "reinit": "create_new"}
        more |= {"project": self._settings.project, "entity": self._settings.entity}
        words = {**init, **more, "tags": self._tags(init)}
        run = wandb.init(mode="offline", **words, settings=wandb.Settings(**known))
        self._folders[init["id"]] = Path(run.settings.sync_dir)
        return run

    def _tags(self, init: Mapping[str, Any]) -> list[str]:
        tags = (tag[:MAX_TAG_CHARACTERS] for tag in [*self._settings.tags, *init["tags"]] if tag)
        return list(dict.fromkeys(tags))

    @functools.cached_property
    def _folders(self) -> dict[str, Path]:
        return wandb_files.find_offline_runs(self._folder.wandb)


class _Following:
    """A W&B run that is open while its run still trains; see `tracking.Follow`.

    Args:
      tracker: What opens and ends it.
      init: What it is opened with.

    Attributes:
      run: The run, once it is open.
      num_told: How many losses it has.
    """

    def __init__(self, tracker: WandbTracker, init: Mapping[str, Any]) -> None:
        self._tracker = tracker
        self._init = init
        self._given_up = False
        self.run: Any = None
        self.num_told = 0

    @property
    def folder(self) -> Path | None:
        """The run's files."""
        return None if self.run is None else Path(self.run.settings.sync_dir)

    def tell(self, first_step: int, losses: Sequence[float]) -> None:
        """Adds the losses to the run's history."""
        if self._given_up:
            return
        with self._tracker._warning_once(self._init["id"]), environment_of(self._tracker._folder.wandb):
            try:
                if self.run is None:
                    self._open()
                for row in payload.loss_rows(losses, first_step):
                    self.run.log(row)
                self.num_told += len(losses)
            except Exception:
                self._give_up()
                raise

    def end(self) -> None:
        """Nothing: what was told is on its way to the file within half a second."""

    def _open(self) -> None:
        self.run = self._tracker._open(self._init, LEAN)
        self._tracker._followed[self._init["id"]] = self
        self.run.define_metric(payload.LOSS, step_metric=payload.AXES[payload.LOSS])

    def _give_up(self) -> None:
        """Leaves the run to `log`, which makes it anew."""
        folder, run, self.run, self._given_up = self.folder, self.run, None, True
        self._tracker._followed.pop(self._init["id"], None)
        with contextlib.suppress(Exception):
            run.finish(exit_code=1)
            shutil.rmtree(str(folder))


def results_digest(folder: SweepFolder) -> str | None:
    """SHA-256 of the sweep's results table: the run of the sweep is made anew where the table is another one."""
    return hashlib.sha256(folder.results.read_bytes()).hexdigest() if folder.results.exists() else None


@contextlib.contextmanager
def environment_of(wandb_dir: Path, **more: str) -> Iterator[None]:
    """Sets what wandb takes from variables only, and `more`, for as long as our calls last."""
    # wandb keeps a copy of every table in its data folder until it is synced, by default in the user's home; and it
    # sends statistics to its makers, even offline. Only variables govern these; the user's own values win.
    wanted = {"WANDB_DATA_DIR": str(wandb_dir / "staging"), "WANDB_ERROR_REPORTING": "false"} | more
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _media(wandb: Any, record: Record, output: Mapping[str, np.ndarray], table_max_elements: int) -> dict[str, Any]:
    media = {}
    latency = record.timing.apply_latency if record.timing else None
    if latency and (histogram := payload.histogram_of(np.array(latency.samples.durations_s))):
        # One row a run: a row a sample takes W&B ten times as long and draws the same picture.
        media["timing/apply_latency/samples_s"] = wandb.Histogram(np_histogram=histogram)
    for path, array in output.items():
        if histogram := payload.histogram_of(array):
            media[f"{payload.output_key(path, len(output))}/histogram"] = wandb.Histogram(np_histogram=histogram)
    if 0 < sum(array.size for array in output.values()) <= table_max_elements:
        places = [(path, index) for path, array in output.items() for index in np.ndindex(array.shape)]
        rows = [[path, literal(index), payload.cell(output[path][index])] for path, index in places]
        media["output/table"] = wandb.Table(columns=["array", "index", "value"], data=rows, allow_mixed_types=True)
    return media


def _charts(wandb: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    charts = {}
    for x, y, title, points in payload.sweep_charts(rows):
        table = wandb.Table(columns=[x, y, "layer"], data=points, allow_mixed_types=True)
        charts[f"chart/{y}_by_{x}"] = wandb.plot.scatter(table, x, y, title=title)
    return charts
