"""Splits a sweep into jobs for an engine, and writes and reads the files that say what each job does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.config import env_secrets, serialize
from runner.config.composing.composed import Config
from runner.errors import UserError
from runner.experiment.job import Job
from runner.experiment.run_record import now
from runner.launch import queue
from runner.records import journal, store
from runner.records.find import STATUSES
from runner.records.paths import SubmissionFolder, SweepFolder
from runner.sweep.plan import Plan, Task, runs_data, with_state
from runner.sweep.run_state import ARCHIVED, State
from runner.sweep.validate import validate

# A job with fewer runs of one program costs more to start than it saves; `process.workers` is for runs that are long.
MIN_RUNS = 8

# Where a process takes one job after the other: few enough that starting them costs little, enough that none waits long
# for the last one.
JOBS_PER_WORKER = 4

HydraFiles = Callable[[tuple[str, ...]], Callable[[int], Mapping[str, str]]]


@dataclass(frozen=True, kw_only=True)
class Crew:
    """What an engine offers.

    Attributes:
      engine: Dotted name of its launcher.
      choice: What was typed to choose it.
      num_workers: Number of concurrent jobs.
      exact: Whether the user set that number.
      process_per_job: Whether every job starts its own Python and JAX, so there should be few.
      auto: The platform that `device=auto` means there; None if the jobs run in this process.
      num_cores: Cores of each job, where several share a machine and the engine doesn't keep them apart.
    """

    engine: str
    choice: str
    num_workers: int
    exact: bool = False
    process_per_job: bool = True
    auto: str | None = "cpu"
    num_cores: int | None = None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The work of one job.

    Attributes:
      runs: Its runs as they stand in the plan, with their state and the run that compares compiled with eager for them.
      died: Runs to record as failed, since they killed their process: id and reason.
    """

    runs: Sequence[Mapping[str, Any]]
    died: Mapping[str, str]


def cut(tasks: Sequence[Task], crew: Crew) -> list[list[Task]]:
    """`tasks`, ordered by program, as jobs: whole programs, cut where there are fewer of them than workers, and several
    to a job where there are many more."""
    jobs = [list(group) for _, group in itertools.groupby(tasks, key=lambda task: task.program_key)]
    least = 1 if crew.exact else MIN_RUNS
    while len(jobs) < crew.num_workers:
        longest = max(range(len(jobs)), key=lambda index: len(jobs[index]))
        middle = (len(jobs[longest]) + 1) // 2
        if len(jobs[longest]) < 2 * least:
            break
        jobs[longest : longest + 1] = [jobs[longest][:middle], jobs[longest][middle:]]
    most = crew.num_workers * (1 if crew.process_per_job else JOBS_PER_WORKER)
    if len(jobs) > most:
        shared: list[list[Task]] = [[] for _ in range(most)]
        for job in sorted(jobs, key=len, reverse=True):
            min(shared, key=len).extend(job)
        jobs = shared
    return jobs


def submit(plan: Plan, jobs: Sequence[Sequence[Task]], crew: Crew, died: Mapping[str, str]) -> SubmissionFolder:
    """Writes the work of `jobs` and returns the submission's folder.

    Args:
      plan: The sweep's.
      jobs: Runs of each job.
      crew: What the engine offers.
      died: See `Piece`.
    """
    submission = _new_folder(plan.folder)
    for num, tasks in enumerate(jobs):
        ids = [task.job.identity.run_id for task in tasks]
        runs = [
            data | {"state": task.state.value, "compared_on": task.job.compared_on}
            for task, data in zip(tasks, runs_data(tasks), strict=True)
        ]
        mine = {run_id: reason for run_id, reason in died.items() if run_id in ids}
        store.write_data(submission.job(num), {"runs": runs, "died": mine})
    about = {"engine": crew.engine, "at": now(), "num_jobs": len(jobs), "auto": crew.auto, "num_cores": crew.num_cores}
    store.write_data(submission.about, about | {"seen": dict(plan.seen)})
    return submission


def read(submission: SubmissionFolder, num: int) -> Piece:
    """The work of job `num`.

    Raises:
      StorageError: The file can't be read, or is not what was written.
    """
    data = queue.read(submission, submission.job(num))
    return Piece(runs=data["runs"], died=data["died"])


def plan_of(folder: SweepFolder, piece: Piece, hydra_files: HydraFiles) -> Plan:
    """One job's part of the sweep's plan, identified and traced where the work is done.

    Raises:
      UserError: A config can't run here, or differs from what it was where it was planned.
    """
    configs = [_config(run, hydra_files) for run in piece.runs]
    identities, drafts = validate(configs)
    tasks = []
    for config, identity, run in zip(configs, identities, piece.runs, strict=True):
        num = run["num"]
        if identity.run_id != run["run_id"]:
            raise UserError(
                f"run {num} of {folder.path} is another run on this machine: its layer's source, its input or its "
                "device is not what it was where the sweep was planned",
                "the same files on every machine, then the same sweep again",
            )
        job = Job(
            run=config.run,
            identity=identity,
            num=num,
            sweep=folder.name,
            overrides=config.overrides,
            compare_eager=run["compared_on"] == num,
            compared_on=run["compared_on"],
        )
        state = State(run["state"])
        tasks.append(Task(job=job, config=config, folder=folder.run(num, identity.run_id), state=state))
    return Plan(folder=folder, tasks=tasks, drafts=drafts, num_configs=len(configs), origin={})


def remaining(plan: Plan, submission: SubmissionFolder, num: int) -> list[Task]:
    """The tasks of job `num` that have not ended since the sweep was planned, with their current state.

    The job itself may have ended some: a requeued job starts over. Call with the locks of its runs held.

    Raises:
      StorageError: A journal is damaged.
    """
    ended = {event["run_id"] for event in _news(plan.folder, submission, num) if event["event"] in STATUSES}
    left = []
    for task in plan.tasks:
        if task.job.identity.run_id not in ended:
            left.append(task if task.state in ARCHIVED else with_state(task, None))
    return left


def _news(folder: SweepFolder, submission: SubmissionFolder, num: int) -> Iterable[dict[str, Any]]:
    """What has been written to journals since the sweep was planned, by others than the siblings of job `num`."""
    seen = queue.read(submission, submission.about)["seen"]
    others = [one for one in folder.submissions().values() if one.path != submission.path]
    paths = [folder.journal, submission.journal(num), *(path for one in others for path in one.journals())]
    for path in paths:
        offset = seen.get(path.relative_to(folder.path).as_posix(), 0)
        if path.exists() and path.stat().st_size > offset:
            yield from journal.read_journal(path, offset=offset)


def _new_folder(folder: SweepFolder) -> SubmissionFolder:
    """An exclusive folder for a submission: concurrent submissions get different ones."""
    number = max(folder.submissions(), default=0) + 1
    while True:
        submission = folder.submission(number)
        try:
            submission.path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return submission


def _config(run: Mapping[str, Any], hydra_files: HydraFiles) -> Config:
    overrides = tuple(run["overrides"])
    return Config(
        run=serialize.from_data(env_secrets.resolve(run["settings"])),
        redaction=env_secrets.of_kept(run["settings"]),
        overrides=overrides,
        where=f"run {run['num']}",
        hydra_files=hydra_files(overrides),
    )
