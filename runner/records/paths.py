"""Where everything lies: one class spells every path of a sweep's folder, and some paths can't be used."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from runner.errors import StorageError

SUGGESTED_ROOT = "output_root=~/outputs"

# Below a path with one of these Orbax saves and, with some of its settings, never finds it again; or no line holds it.
UNSAFE = re.compile(r"[*?\[\]{}\\\x00-\x1f\x7f]")
# Orbax adds its own to the name of a folder while it writes, and a file system takes 255.
MAX_NAME_BYTES = 200
MAX_PATH_BYTES = 3000


@dataclass(frozen=True)
class RunFolder:
    """Where one run leaves its files."""

    path: Path

    @property
    def record(self) -> Path:
        """The record, written last."""
        return self.path / "record.json"

    @property
    def checkpoint(self) -> Path:
        """The Linen variables, a plain Orbax checkpoint."""
        return self.path / "checkpoint"

    @property
    def train_state(self) -> Path:
        """The step and the optimiser's state of a run that was trained, a plain Orbax checkpoint."""
        return self.path / "train_state"

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """All that goes when the run's checkpoint is not kept."""
        return self.checkpoint, self.train_state, self.steps

    @property
    def steps(self) -> Path:
        """Steps of a run that keeps some while it trains, each a plain Orbax checkpoint."""
        return self.path / "steps"

    @property
    def hydra(self) -> Path:
        """The files that Hydra leaves beside a job."""
        return self.path / ".hydra"

    @property
    def input(self) -> Path:
        """A copy of the file that x came from, where it came from one."""
        return self.path / "input.npy"

    def output(self, *, single: bool) -> Path:
        """The output: one array, or an archive of several."""
        return self.path / ("output.npy" if single else "output.npz")


@dataclass(frozen=True)
class SubmissionFolder:
    """What one submission to an engine leaves, and what its jobs read."""

    path: Path

    @property
    def about(self) -> Path:
        """Which engine it went to, and how many jobs it has; written last, before the jobs start."""
        return self.path / "submission.json"

    @property
    def launcher(self) -> Path:
        """The journal of the process that submitted it, held for as long as that lives."""
        return self.path / "launcher.jsonl"

    @property
    def stop(self) -> Path:
        """Is there once the jobs are asked to end after the run that they are at."""
        return self.path / "stop"

    def job(self, num: int) -> Path:
        """What one job is to do."""
        return self.path / f"{num}.json"

    def journal(self, num: int) -> Path:
        """The journal of one job."""
        return self.path / f"{num}.jsonl"

    def journals(self) -> list[Path]:
        """The journals that are there."""
        return sorted(self.path.glob("*.jsonl"))


@dataclass(frozen=True)
class SweepFolder:
    """Where a sweep leaves its files."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.path.name

    @property
    def plan(self) -> Path:
        """Every run's id and settings, written before run 0."""
        return self.path / "sweep.json"

    @property
    def journal(self) -> Path:
        """One line an event: the truth after a crash."""
        return self.path / "journal.jsonl"

    @property
    def study(self) -> Path:
        """The study of a search, Optuna's own file."""
        return self.path / "study.db"

    @property
    def trials(self) -> Path:
        """One line a trial of a search that was told; held by the process that asks for them."""
        return self.path / "trials.jsonl"

    @property
    def jobs(self) -> Path:
        """A folder for every submission to an engine beside the sweep's own process."""
        return self.path / "jobs"

    def submission(self, number: int) -> SubmissionFolder:
        """The folder of one submission, from 1."""
        return SubmissionFolder(self.jobs / str(number))

    def submissions(self) -> dict[int, SubmissionFolder]:
        """The submissions that are there, by number."""
        numbers = [int(path.name) for path in self.jobs.glob("[0-9]*") if path.name.isdigit()]
        return {number: self.submission(number) for number in sorted(numbers)}

    @property
    def results(self) -> Path:
        """One row a run, for pandas, polars and DuckDB."""
        return self.path / "results.parquet"

    @property
    def results_csv(self) -> Path:
        """The same as text."""
        return self.path / "results.csv"

    @property
    def checks(self) -> Path:
        """The checks as a table, where they were asked."""
        return self.path / "checks.md"

    @property
    def report(self) -> Path:
        """The sweep as one page."""
        return self.path / "report.html"

    @property
    def wandb(self) -> Path:
        """Offline W&B runs, and which of them were sent."""
        return self.path / "wandb"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files, a folder a run."""
        return self.path / "tensorboard"

    @property
    def lock(self) -> Path:
        """Held by the process that works in this folder; of jobs that work there side by side, each holds its runs."""
        return self.path / ".lock"

    def run(self, num: int, run_id: str) -> RunFolder:
        """The folder of one run: `runs/<num>-<id>`."""
        return RunFolder(self.path / "runs" / f"{num}-{run_id[:8]}")


def shown(path: Path) -> str:
    """`path` as short as it can be typed here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def require_plain(path: Path, suggestion: str = SUGGESTED_ROOT) -> None:
    """Checks whether a checkpoint saved at or below `path` is found again by every reader.

    Args:
      path: A path that need not be there.
      suggestion: What to type instead.

    Raises:
      StorageError: It holds a sign that Orbax reads as a wildcard, or a name is too long.
    """
    text = str(path.absolute())
    if sign := UNSAFE.search(text):
        reason = f"Orbax reads {sign[0]!r} in a path as a wildcard, or not at all"
        raise StorageError(f"{_line(text)}: {reason}", suggestion)
    longest = max(len(os.fsencode(part)) for part in path.absolute().parts)
    if longest > MAX_NAME_BYTES or len(os.fsencode(text)) > MAX_PATH_BYTES:
        limits = f"a name has {MAX_NAME_BYTES} at most and a path {MAX_PATH_BYTES}"
        raise StorageError(f"{_line(text)[:80]}…: the name is {longest} bytes long, {limits}", suggestion)


def _line(text: str) -> str:
    """`text` on one line."""
    return text if text.isprintable() else repr(text)


def require_writable(folder: Path) -> None:
    """Checks, without writing anything, whether `folder` can be made and written to.

    Raises:
      StorageError: It can't.
    """
    existing = folder
    while not existing.exists():
        if existing.parent == existing:
            break
        existing = existing.parent
    if not existing.is_dir():
        raise StorageError(f"output folder {folder}: {existing} is a file, not a folder", SUGGESTED_ROOT)
    if not os.access(existing, os.W_OK | os.X_OK) or _is_read_only(existing):
        raise StorageError(f"output folder {folder}: {existing} is not writable", SUGGESTED_ROOT)


def _is_read_only(path: Path) -> bool:
    # root passes every access check; a read-only file system still refuses.
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
