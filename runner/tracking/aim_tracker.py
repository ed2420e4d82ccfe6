"""Aim tracker: one Aim run per record, and one for the sweep, in an experiment of the sweep's name. No server."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.config.settings.execution import TrackingSettings
from runner.records.paths import SweepFolder
from runner.records.record import Record
from runner.tracking import payload
from runner.tracking.tracker import Attempts, NullTracker

# The param of ours by which a run is found again, and the key of the sweep's own.
OURS, WHOLE = "bridge_runner", "sweep"

# Another job may be making the repository: Aim takes about 3 s for that.
ATTEMPTS, PAUSE_S = 20, 0.5

# Aim's integers have 64 bits.
MAX_INTEGER = 2**63


class AimTracker(NullTracker):
    """One Aim run per record; logging a record again rewrites its run.

    Runs go to the Aim repository in `tracking.options.repo`, else in the folder that the sweep's folder is in, so that
    all sweeps of an output folder are seen together: making one takes Aim seconds.
    """

    def __init__(self, settings: TrackingSettings, folder: Path, sweep: str, warn: Callable[[str], None]) -> None:
        self._settings = settings
        self._folder = SweepFolder(folder.resolve())
        self._sweep = sweep
        self._attempts = Attempts("Aim", warn)
        self._opened: tuple[Any, dict[str, str]] | None = None

    @staticmethod
    def look(settings: TrackingSettings, folder: Path) -> str:
        """The command that shows the runs."""
        return f"aim up --repo {_place(settings, folder)}"

    def warm(self) -> None:
        """Imports Aim and opens its repository, which takes seconds."""
        self._attempts.succeeds(WHOLE, self._open)

    def log(self, record: Record, output: Mapping[str, np.ndarray], run_dir: Path) -> float | None:
        """Writes the Aim run of a record; returns the seconds taken, or None if Aim failed."""
        started = time.perf_counter()

        def make() -> None:
            values = payload.summary_of(record)
            texts = {key: value for key, value in values.items() if isinstance(value, str)}
            texts |= {"layer": record.layer, "platform": record.platform}
            texts |= {"host": record.host} if record.host else {}
            # Files stay where they are: Aim's repository is on this machine, as they are.
            texts |= {"checkpoint": str(run_dir / record.checkpoint.path)} if record.checkpoint else {}
            params = {"hparams": payload.config_of(record), WHOLE: self._sweep, "summary": texts}
            name = f"{record.num}-{record.layer}-s{record.settings.get('seed')}"
            about = self._settings.notes or f"{payload.sentence_of(record)}. bridge-runner show {run_dir}"
            train = record.train
            losses = payload.loss_rows(train.losses, train.first_step) if train else ()
            points = [(payload.LOSS, float(row[payload.LOSS]), row[f"{payload.TRAIN}/step"]) for row in losses]
            self._write(record.run_id, name, about, params, [*_numbers(values), *points])

        return time.perf_counter() - started if self._attempts.succeeds(record.run_id[:12], make) else None

    def log_sweep(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the sweep's own run: how many runs there are, and where the report is."""

        def make() -> None:
            about = self._settings.notes or f"bridge-runner ls {self._folder.path}"
            texts = {"report": str(self._folder.report)} if self._folder.report.exists() else {}
            params = {WHOLE: name, "summary": texts}
            self._write(WHOLE, name, about, params, _numbers(payload.sweep_summary(rows)))

        self._attempts.succeeds(WHOLE, make)

    def close(self) -> None:
        """Lets go of the repository."""
        self._opened = None

    def _write(
        self, key: str, name: str, about: str, params: Mapping[str, Any], points: Sequence[tuple[str, float, int]]
    ) -> None:
        """Writes the run that `key` is found by: a new one, or the one that is there, emptied."""
        from aim.sdk.run import BasicRun

        repo, known = self._open()
        if there := known.get(key):
            _empty(repo, there)
        # Not `Run`, which also records the terminal, the machine's load and the installed packages.
        run = BasicRun(there, repo=repo, experiment=self._settings.project or self._sweep)
        try:
            known[key] = run.hash
            run[OURS] = {"run_id": key, "sweep": self._sweep}
            run.name, run.description = name, about
            for tag in set(self._settings.tags) - set(run.tags):
                run.add_tag(tag)
            for param, value in params.items():
                run[param] = _plain(value)
            for metric, number, step in points:
                run.track(number, name=metric, step=step)
        finally:
            run.close()

    def _open(self) -> tuple[Any, dict[str, str]]:
        """The repository, and its runs of this sweep: Aim's hash by our id."""
        if self._opened is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it uses what SQLAlchemy 2 deprecates
                repo = _repository(_place(self._settings, self._folder.path))
            # Aim lists runs twice a second at most: without this, one that was written just now would be written twice.
            repo._all_run_hashes.cache_clear()
            runs = ((run, _ours(repo, run)) for run in repo.list_all_runs())
            known = {ours["run_id"]: run for run, ours in runs if ours and ours["sweep"] == self._sweep}
            self._opened = repo, known
        return self._opened


def _place(settings: TrackingSettings, folder: Path) -> Path:
    return Path(settings.options.get("repo") or folder.parent).expanduser().resolve()


def _repository(place: Path) -> Any:
    """Opens the repository in a folder, or makes one."""
    from aim.sdk.repo import Repo, RepoStatus
    from aimrocks.errors import RocksIOError

    # It warns of every run that is written again.
    logging.getLogger("aim").setLevel(logging.ERROR)
    place.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        try:
            return Repo.from_path(str(place), init=Repo.check_repo_status(str(place)) is not RepoStatus.UPDATED)
        except RocksIOError:  # another job holds the lock of one that is being made
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(PAUSE_S)
    raise AssertionError("unreachable")


def _ours(repo: Any, run: str) -> Mapping[str, str] | None:
    """Our id and sweep in a run of any program: read from the run itself, since Aim's index may be older."""
    from aimrocks.errors import RocksIOError

    try:
        tree = repo.request_tree("meta", run, read_only=True)
    except RocksIOError:  # its program was killed before it wrote anything
        return None
    return tree.subtree(("meta", "chunks", run, "attrs")).get(OURS, None)


def _empty(repo: Any, run: str) -> None:
    """Removes params and metrics of a run; deleting it would fail wherever Aim's page is open."""
    for name in ("meta", "seqs"):
        tree = repo.request_tree(name, run, read_only=False)
        del tree[name]


def _numbers(values: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    return [(key, float(value), 0) for key, value in values.items() if type(value) in (int, float)]


def _plain(value: Any) -> Any:
    """`value` as Aim stores it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, int) and not -MAX_INTEGER <= value < MAX_INTEGER else value
