"""Plans a sweep: validates and deduplicates configs, looks up finished runs. Read-only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runner.config.composing.composed import Config
from runner.config.enums import ChecksMode, EagerCheck, Retry, TrackingMode
from runner.config.serialize import canonical_digest, to_data
from runner.config.settings.run import Run, family
from runner.errors import UserError
from runner.experiment.draft import Draft
from runner.experiment.identity import Identity
from runner.experiment.job import Job
from runner.experiment.run_record import now
from runner.records import paths, store
from runner.records.codec import growing
from runner.records.paths import RunFolder, SweepFolder
from runner.sweep import together
from runner.sweep.run_state import FINISHED, State, known_states, left_over
from runner.sweep.validate import ProgramKey, validate
from runner.timing import machine


@dataclass(frozen=True, kw_only=True)
class Task:
    """A distinct run of the sweep.

    Attributes:
      state: Its state before the sweep starts.
      tracked: Whether an earlier attempt already created its W&B run.
      adopted: Whether it ended by its record alone: no journal has it.
    """

    job: Job
    config: Config
    folder: RunFolder
    state: State
    tracked: bool = False
    adopted: bool = False

    @property
    def program_key(self) -> ProgramKey:
        """The key of the compiled program that the run needs."""
        return self.job.identity.program_id, self.job.run.device


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep will do.

    Attributes:
      folder: The sweep's folder.
      tasks: Every distinct run, in the order of the configs.
      drafts: The traced program of every task, by its key.
      num_configs: Configs requested, duplicates included.
      origin: The command that started the sweep, for `resume`.
      retry: Which finished runs are rerun.
      seen: Bytes of every journal, by its path in the folder, before the states of the tasks were read from them.
      concluded: Whether the sweep's files and its own W&B run are there and as new as its runs.
      study: The search whose trials these runs evaluate, as JSON data; None if all configs were known up front.
      written_at: When the plan was first written; None if it has not been.
    """

    folder: SweepFolder
    tasks: Sequence[Task]
    drafts: Mapping[ProgramKey, Draft]
    num_configs: int
    origin: Mapping[str, Any]
    retry: Retry = Retry.failed
    seen: Mapping[str, int] = field(default_factory=dict)
    concluded: bool = False
    study: Mapping[str, Any] | None = None
    written_at: str | None = None

    def pending(self) -> list[Task]:
        """Tasks to run, ordered by program."""
        wanted = {State.new, State.interrupted, State.damaged}
        wanted |= {State.failed} if self.retry is not Retry.none else set()
        wanted |= {State.stale} if self.retry is Retry.all else set()
        order = {key: index for index, key in enumerate(self.drafts)}
        # In a search, runs that its study no longer asks for have no program.
        chosen = [task for task in self.tasks if task.state in wanted and task.program_key in order]
        return sorted(chosen, key=lambda task: (order[task.program_key], task.job.num))

    def untracked(self) -> list[Task]:
        """Finished runs without a W&B run; empty if the sweep is not tracked."""
        finished = [task for task in self.tasks if task.state in FINISHED and not task.tracked]
        return [task for task in finished if task.job.run.tracking.mode is not TrackingMode.disabled]

    def counts(self) -> dict[str, int]:
        """The number of tasks in each state; empty states are omitted."""
        return {state.value: n for state in State if (n := sum(task.state is state for task in self.tasks))}


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Extends a plan whose later configs depend on the results of earlier runs.

    Attributes:
      num_runs: The maximum number of runs to come.
      longer: Returns the plan with the next runs once those of the last plan have ended; None if there are no more.
    """

    num_runs: int
    longer: Callable[[], Plan | None]


def make_plan(
    configs: Sequence[Config],
    place: Callable[[str], SweepFolder],
    refused: Sequence[tuple[str, UserError]] = (),
    *,
    origin: Mapping[str, Any] | None = None,
    remote_platform: str | None = None,
) -> Plan:
    """Plans `configs`: validates and deduplicates them, and looks up finished runs. Writes nothing.

    Args:
      configs: At least one config.
      place: Returns the sweep's folder, given the name that the plan suggests.
      refused: Where and why other configs of the sweep are invalid; reported together with the errors found here.
      origin: The command that started the sweep.
      remote_platform: For runs on remote machines, the platform that `device=auto` means there; only the CPU is then
        used here.

    Raises:
      UserError: Configs that can't run (all errors together), or a folder that can't be used.
    """
    configs, traced = together.resolved(configs, remote_platform=remote_platform)
    identities, drafts = validate(configs, refused, remote_platform=remote_platform, known=traced)
    distinct: dict[str, int] = {}
    for index, identity in enumerate(identities):
        distinct.setdefault(identity.run_id, index)
    folder = place(_suggest_name(configs, list(distinct)))
    paths.require_plain(folder.path)
    paths.require_writable(folder.path)
    seen = store.journal_sizes(folder)
    known = known_states(folder, list(distinct))
    compared: dict[str, int] = {}
    tasks = []
    with growing():
        for num, (run_id, index) in enumerate(distinct.items()):
            state, tracked = known.states.get(run_id), run_id in known.tracked
            task = make_task(
                configs[index], identities[index], folder, num, state=state, tracked=tracked, compared=compared
            )
            tasks.append(task)
    return Plan(
        folder=folder,
        tasks=tasks,
        drafts=drafts,
        num_configs=len(configs),
        origin=origin or {},
        retry=configs[0].run.failure.retry,
        seen=seen,
        concluded=known.concluded,
    )


def make_task(
    config: Config,
    identity: Identity,
    folder: SweepFolder,
    num: int,
    *,
    compared: dict[str, int],
    state: State | None = None,
    tracked: bool = False,
) -> Task:
    """Makes the task of one run in a sweep.

    Args:
      config: The config to run.
      identity: Its ids.
      folder: The sweep's folder.
      num: Its position.
      state: Its state in the journals; None if they don't mention it.
      tracked: Whether it has a W&B run.
      compared: The runs that compare compiled with eager, by what they compare; this run is added if none does yet.
    """
    subject = _subject(config.run, identity)
    compared_on = None if subject is None else compared.setdefault(subject, num)
    job = Job(
        run=config.run,
        identity=identity,
        num=num,
        sweep=folder.name,
        overrides=config.overrides,
        compare_eager=compared_on == num,
        compared_on=compared_on,
    )
    run_folder = folder.run(num, identity.run_id)
    found, adopted = _found(run_folder, identity.run_id, state)
    return Task(job=job, config=config, folder=run_folder, state=found, tracked=tracked, adopted=adopted)


def with_state(task: Task, state: State | None) -> Task:
    """`task` with its state in the journals, or if they don't mention it, the one that its folder shows."""
    found, adopted = _found(task.folder, task.job.identity.run_id, state)
    return replace(task, state=found, adopted=adopted)


def _found(folder: RunFolder, run_id: str, state: State | None) -> tuple[State, bool]:
    """The state of a run, in the journals or as its folder shows, and whether it ended by its record alone."""
    found = state or left_over(folder, run_id)
    return found, state is None and found in FINISHED


def refreshed(plan: Plan) -> Plan:
    """`plan` with the current state of every run."""
    known = known_states(plan.folder, [task.job.identity.run_id for task in plan.tasks])
    tasks = []
    for task in plan.tasks:
        run_id = task.job.identity.run_id
        tasks.append(replace(with_state(task, known.states.get(run_id)), tracked=run_id in known.tracked))
    return replace(plan, tasks=tasks)


def plan_data(plan: Plan) -> dict[str, Any]:
    """`plan` as JSON data, as stored in the sweep's folder."""
    study = {} if plan.study is None else {"study": dict(plan.study)}
    return {
        "sweep": plan.folder.name,
        "written_at": plan.written_at or now(),
        "origin": dict(plan.origin),
        **study,
        "num_configs": plan.num_configs,
        "environment": machine.fingerprint(),
        "runs": runs_data(plan.tasks),
    }


def runs_data(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Runs of a plan as JSON data; where they differ in the seed alone, they share the rest of their settings."""
    shared: dict[Hashable, dict[str, Any]] = {}
    found = []
    for task in tasks:
        if task.config.redaction.values:
            settings = task.config.redaction.settings(to_data(task.job.run))
        else:
            likes = family(task.job.run)
            if likes not in shared:
                shared[likes] = to_data(task.job.run)
            settings = shared[likes] | {"seed": task.job.run.seed}
        found.append(_run_data(task, settings))
    return found


def _run_data(task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num": task.job.num,
        "run_id": task.job.identity.run_id,
        "result_id": task.job.identity.result_id,
        "program_id": task.job.identity.program_id,
        "folder": f"runs/{task.folder.path.name}",
        "layer": task.job.run.layer.label,
        "overrides": list(task.job.overrides),
        "settings": settings,
    }


def comparing(tasks: Sequence[Task]) -> dict[str, int]:
    """The runs that compare compiled with eager, by what they compare; see `make_task`."""
    jobs = [task.job for task in tasks if task.job.compare_eager]
    return {str(_subject(job.run, job.identity)): job.num for job in jobs}


def _subject(run: Run, identity: Identity) -> str | None:
    """What is compared only once in a sweep; None if nothing is."""
    if run.checks.mode is ChecksMode.off or run.checks.eager is EagerCheck.never:
        return None
    return identity.program_id if run.checks.eager is EagerCheck.program else str(run.layer.target)


def _suggest_name(configs: Sequence[Config], run_ids: Sequence[str]) -> str:
    labels = list(dict.fromkeys(config.run.layer.label for config in configs))
    name = "-".join(labels) if len(labels) <= 3 else f"{len(labels)}-layers"
    return f"{name}-{canonical_digest(sorted(run_ids))[:8]}"
