"""Folder layout: every path of a sweep, run and submission, and checks for paths that can't be used."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from runner.errors import StorageError

# Between the name of a run's folder and the number of an earlier try, which was moved aside.
ASIDE = ".old-"

SUGGESTED_ROOT = "output_root=~/outputs"

# Below a path with one of these, Orbax saves but, with some settings, can't find the checkpoint; or lines would break.
UNSAFE = re.compile(r"[*?\[\]{}\\\x00-\x1f\x7f]")
# Orbax adds a suffix to a folder's name while it writes, and file systems allow 255.
MAX_NAME_BYTES = 200
MAX_PATH_BYTES = 3000


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run's files."""

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
        """The step and optimizer state of a trained run, a plain Orbax checkpoint."""
        return self.path / "train_state"

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """Everything that is removed when the run's checkpoint is not kept."""
        return self.checkpoint, self.train_state, self.steps

    @property
    def steps(self) -> Path:
        """Checkpoints saved during training, one plain Orbax checkpoint per step."""
        return self.path / "steps"

    @property
    def hydra(self) -> Path:
        """The files that Hydra writes for a job."""
        return self.path / ".hydra"

    @property
    def input(self) -> Path:
        """A copy of the file that x was loaded from, if it was."""
        return self.path / "input.npy"

    def source(self, digest: str) -> Path:
        """A source of the user's that the run comes from, kept once for all runs of its sweep."""
        return self.path.parent.parent / "sources" / f"{digest}.py"

    def output(self, *, single: bool) -> Path:
        """The output: a single array, or an archive of several."""
        return self.path / ("output.npy" if single else "output.npz")


@dataclass(frozen=True)
class SubmissionFolder:
    """Paths of one submission to an engine: what it writes, and what its jobs read."""

    path: Path

    @property
    def about(self) -> Path:
        """The engine and the number of jobs; written last, before the jobs start."""
        return self.path / "submission.json"

    @property
    def launcher(self) -> Path:
        """The journal of the submitting process, locked for that process's lifetime."""
        return self.path / "launcher.jsonl"

    @property
    def stop(self) -> Path:
        """Exists once the jobs have been requested to stop after their current run."""
        return self.path / "stop"

    def job(self, num: int) -> Path:
        """The work assigned to one job."""
        return self.path / f"{num}.json"

    def journal(self, num: int) -> Path:
        """The journal of one job."""
        return self.path / f"{num}.jsonl"

    def journals(self) -> list[Path]:
        """The journals that exist."""
        return sorted(self.path.glob("*.jsonl"))


@dataclass(frozen=True)
class SweepFolder:
    """Paths of a sweep's files."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.path.name

    @property
    def plan(self) -> Path:
        """Ids and settings of all runs, written before run 0."""
        return self.path / "sweep.json"

    @property
    def journal(self) -> Path:
        """One line per event: the source of truth after a crash."""
        return self.path / "journal.jsonl"

    @property
    def study(self) -> Path:
        """The Optuna study of a search, in Optuna's own format."""
        return self.path / "study.db"

    @property
    def trials(self) -> Path:
        """One line per finished trial of a search; locked by the process that samples trials."""
        return self.path / "trials.jsonl"

    @property
    def jobs(self) -> Path:
        """One folder per submission to an engine outside the sweep's own process."""
        return self.path / "jobs"

    def submission(self, number: int) -> SubmissionFolder:
        """The folder of one submission, numbered from 1."""
        return SubmissionFolder(self.jobs / str(number))

    def submissions(self) -> dict[int, SubmissionFolder]:
        """The submissions that exist, by number."""
        numbers = [int(path.name) for path in self.jobs.glob("[0-9]*") if path.name.isdigit()]
        return {number: self.submission(number) for number in sorted(numbers)}

    @property
    def results(self) -> Path:
        """The results table, one row per run, for pandas, polars and DuckDB."""
        return self.path / "results.parquet"

    @property
    def results_csv(self) -> Path:
        """The results table as CSV."""
        return self.path / "results.csv"

    @property
    def checks(self) -> Path:
        """The checks as a table, if requested."""
        return self.path / "checks.md"

    @property
    def report(self) -> Path:
        """The sweep's report, a single page."""
        return self.path / "report.html"

    @property
    def derived(self) -> tuple[Path, ...]:
        """What is made from the records at a sweep's end."""
        return self.results, self.results_csv, self.checks, self.report

    @property
    def wandb(self) -> Path:
        """Offline W&B runs, and which of them were uploaded."""
        return self.path / "wandb"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files, one folder per run."""
        return self.path / "tensorboard"

    @property
    def lock(self) -> Path:
        """Locked by the process that works in this folder; concurrent jobs each lock their own runs."""
        return self.path / ".lock"

    def run(self, num: int, run_id: str) -> RunFolder:
        """The folder of one run: `runs/<num>-<id>`."""
        return RunFolder(self.path / f"runs/{num}-{run_id[:8]}")

    def record_path(self, num: int, run_id: str) -> str:
        """The record of one run as text, for those who look for very many: a `Path` takes ten times as long."""
        return f"{self.path}/runs/{num}-{run_id[:8]}/record.json"


def shown(path: Path) -> str:
    """The shortest spelling of `path` that works from the current directory."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def require_plain(path: Path, suggestion: str = SUGGESTED_ROOT) -> None:
    """Checks that every reader can find a checkpoint saved at or below `path`.

    Args:
      path: A path that need not exist.
      suggestion: What to type instead.

    Raises:
      StorageError: It contains a character that Orbax treats as a wildcard, or a name is too long, or not UTF-8.
    """
    text = str(path.absolute())
    if sign := UNSAFE.search(text):
        reason = f"Orbax reads {sign[0]!r} in a path as a wildcard, or not at all"
        raise StorageError(f"{_line(text)}: {reason}", suggestion)
    if any("\udc80" <= sign <= "\udcff" for sign in text):
        raise StorageError(f"{_line(text)}: the name is not UTF-8, and Orbax takes no other", suggestion)
    longest = max(len(os.fsencode(part)) for part in path.absolute().parts)
    if longest > MAX_NAME_BYTES or len(os.fsencode(text)) > MAX_PATH_BYTES:
        limits = f"a name has {MAX_NAME_BYTES} at most and a path {MAX_PATH_BYTES}"
        raise StorageError(f"{_line(text)[:80]}…: the name is {longest} bytes long, {limits}", suggestion)


def _line(text: str) -> str:
    """`text` on one line."""
    return text if text.isprintable() else repr(text)


def require_writable(folder: Path) -> None:
    """Checks, without writing anything, that `folder` can be created and written to.

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
