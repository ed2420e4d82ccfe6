"""Tells whether a sweep has ended, and which of its jobs are queued or running, wherever they were submitted from."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.records import journal, store
from runner.records.disk import plain_files
from runner.records.paths import SubmissionFolder, SweepFolder

QUEUE_TIMEOUT_S = 30.0

# One line per job that Slurm still has: pending, running, requeued, suspended.
SQUEUE = ("squeue", "--noheader", "--array", "--format=%i")


def is_over(folder: SweepFolder) -> bool:
    """Whether the last attempt at a sweep has ended: its journal says so, or no process is working on it any more."""
    if journal.is_held(folder.trials):  # a search continues between submissions
        return False
    last = max(folder.submissions(), default=0)
    own = journal.read_journal(folder.journal)
    if own and int(own[-1].get("after", 0)) >= last and own[-1]["event"] == "end":
        return True
    if not last:
        return False
    submission = folder.submission(last)
    return not journal.is_held(submission.launcher) and not living_jobs(submission)


def unfinished(folder: SweepFolder) -> dict[int, list[int]]:
    """Jobs that are queued or running, by the number of their submission."""
    found = {number: living_jobs(submission) for number, submission in folder.submissions().items()}
    return {number: jobs for number, jobs in found.items() if jobs}


def living_jobs(submission: SubmissionFolder, *, launcher_lives: bool | None = None) -> list[int]:
    """Jobs of one submission that have not ended.

    Args:
      submission: The submission.
      launcher_lives: Whether the process that submitted them is alive to start the waiting ones; None looks it up.
    """
    if not submission.about.exists():
        return []
    num_jobs = read(submission, submission.about)["num_jobs"]
    open_jobs = [num for num in range(num_jobs) if not has_ended(submission.journal(num))]
    if not open_jobs:
        return []
    if launcher_lives is None:
        launcher_lives = journal.is_held(submission.launcher)
    if launcher_lives:
        return open_jobs
    running = [num for num in open_jobs if journal.is_held(submission.journal(num))]
    queued = set(_queued(submission))
    return sorted({*running, *(num for num in open_jobs if num in queued)})


def run_nums(submission: SubmissionFolder, jobs: list[int]) -> set[int]:
    """Numbers of the runs that `jobs` have."""
    return {run["num"] for num in jobs for run in read(submission, submission.job(num))["runs"]}


def read(submission: SubmissionFolder, path: Path) -> dict[str, Any]:
    """What a file of a submission says: its `about`, or the work of a job.

    Raises:
      StorageError: It can't be read, or is not what was written.
    """
    # Without that file no job of the submission is waited for, and runs that are under way are locked.
    return store.read_data(path, f"rm {shlex.quote(str(submission.about))}, then the same sweep again")


def has_ended(path: Path) -> bool:
    """Whether the last line of a journal says that it ended."""
    try:
        with plain_files.opened(path) as file:
            file.seek(max(path.stat().st_size - 1000, 0))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return False
    return bool(lines) and lines[-1].startswith(b'{"event":"end"')


def cancel_queued(submission: SubmissionFolder) -> None:
    """Cancels the jobs that have not started, if the engine has its own queue."""
    if job_ids := _slurm_ids(submission):
        _output("scancel", "--state=PENDING", *job_ids)


def _queued(submission: SubmissionFolder) -> Iterator[int]:
    """Jobs that the engine itself reports."""
    if job_ids := _slurm_ids(submission):
        for line in _output(*SQUEUE, f"--jobs={','.join(job_ids)}").split():
            yield int(line.partition("_")[2] or 0)
    elif any(_is_controller(path.name) for path in submission.path.glob(".submitit/[0-9]*")):
        # A process of its own for each job; which is which only the job itself says, once its journal is there.
        nums = [int(path.stem) for path in submission.path.glob("[0-9]*.json")]
        yield from (num for num in nums if not submission.journal(num).exists())


def _slurm_ids(submission: SubmissionFolder) -> list[str]:
    """Slurm's ids of the submission, one for a whole array; submitit names folders after them."""
    if not submission.about.exists() or not read(submission, submission.about)["engine"].endswith(".SlurmLauncher"):
        return []
    return sorted({path.name.partition("_")[0] for path in submission.path.glob(".submitit/[0-9]*")})


def _is_controller(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return b"submitit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _output(*command: str) -> str:
    """What a command of the engine prints; empty if it is not installed or no longer knows the jobs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=QUEUE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
