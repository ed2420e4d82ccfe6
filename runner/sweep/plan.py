"""What a sweep is going to do: configs validated, each once, with what is already there. Nothing here writes."""

from __future__ import annotations

import contextlib
import enum
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.arrays import checkpoint, trees
from runner.config.composed import Config
from runner.config.enums import ChecksMode, EagerCheck, Retry, TrackingMode
from runner.config.serialize import canonical_digest, to_data
from runner.config.settings import Run
from runner.errors import ConfigError, StorageError, UserError, one_or_many
from runner.experiment import inputs
from runner.experiment import program as programs
from runner.experiment.execute import Job, now
from runner.experiment.program import Draft, Identity
from runner.records import find, paths, removal, store
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import Status
from runner.sweep import retention
from runner.timing import machine

ProgramKey = tuple[str, str]


class State(enum.Enum):
    """What is known of a run before the sweep goes on."""

    done = "done"
    failed = "failed"
    interrupted = "interrupted"
    stale = "stale"
    new = "new"


FINISHED = frozenset({State.done, State.stale, State.failed})


@dataclass(frozen=True, kw_only=True)
class Task:
    """A distinct run of the sweep; `tracked` says whether an earlier attempt has made its W&B run."""

    job: Job
    config: Config
    folder: RunFolder
    state: State
    tracked: bool = False

    @property
    def program_key(self) -> ProgramKey:
        """Names the compiled program that the run needs."""
        return self.job.identity.program_id, self.job.run.device


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep is going to do.

    Attributes:
      folder: Where.
      tasks: Every distinct run, in the order of the configs.
      drafts: The traced program of every task, by its key.
      num_configs: Configs asked for; more than tasks where two are equal.
      origin: The command that made the sweep, for `resume`.
      retry: Which finished runs are done again.
      seen: Bytes of every journal, by its path in the folder, before the states of the tasks were read from them.
      study: What the search is for whose trials these runs answer, as JSON data; None where all configs were known.
      written_at: When the plan was written first; None where it was not yet.
    """

    folder: SweepFolder
    tasks: Sequence[Task]
    drafts: Mapping[ProgramKey, Draft]
    num_configs: int
    origin: Mapping[str, Any]
    retry: Retry = Retry.failed
    seen: Mapping[str, int] = field(default_factory=dict)
    study: Mapping[str, Any] | None = None
    written_at: str | None = None

    def pending(self) -> list[Task]:
        """Tasks to run, ordered by program."""
        wanted = {State.new, State.interrupted}
        wanted |= {State.failed} if self.retry is not Retry.none else set()
        wanted |= {State.stale} if self.retry is Retry.all else set()
        order = {key: index for index, key in enumerate(self.drafts)}
        # A search leaves runs without a program that its study does not ask for any more.
        chosen = [task for task in self.tasks if task.state in wanted and task.program_key in order]
        return sorted(chosen, key=lambda task: (order[task.program_key], task.job.num))

    def untracked(self) -> list[Task]:
        """Finished runs that have no W&B run yet; none where the sweep is not tracked."""
        finished = [task for task in self.tasks if task.state in FINISHED and not task.tracked]
        return [task for task in finished if task.job.run.tracking.mode is not TrackingMode.disabled]

    def counts(self) -> dict[str, int]:
        """How many tasks are in each state; states without any are left out."""
        return {state.value: n for state in State if (n := sum(task.state is state for task in self.tasks))}


def make_plan(
    configs: Sequence[Config],
    place: Callable[[str], SweepFolder],
    refused: Sequence[tuple[str, UserError]] = (),
    *,
    origin: Mapping[str, Any] | None = None,
    elsewhere: str | None = None,
) -> Plan:
    """What is to be done for `configs`: validated, equal ones once, with what is already there. Writes nothing.

    Args:
      configs: At least one.
      place: The sweep's folder, given the name that the plan suggests.
      refused: Where and why other configs of the sweep have no meaning; said together with what is found here.
      origin: The command that made the sweep.
      elsewhere: Where other machines do the work, the platform that `device=auto` means there; nothing but the CPU is
        then touched here.

    Raises:
      UserError: Configs that can't run (all mistakes together), or a folder that can't be used.
    """
    identities, drafts = validate(configs, refused, elsewhere=elsewhere)
    distinct: dict[str, int] = {}
    for index, identity in enumerate(identities):
        distinct.setdefault(identity.run_id, index)
    folder = place(_suggest_name(configs, list(distinct)))
    paths.require_plain(folder.path)
    paths.require_writable(folder.path)
    seen = store.journal_sizes(folder)
    states, tracked = known_states(folder, list(distinct))
    compared: dict[str, int] = {}
    tasks = []
    for num, (run_id, index) in enumerate(distinct.items()):
        task = make_task(configs[index], identities[index], folder, num, state=states.get(run_id), compared=compared)
        tasks.append(replace(task, tracked=run_id in tracked))
    return Plan(
        folder=folder,
        tasks=tasks,
        drafts=drafts,
        num_configs=len(configs),
        origin=origin or {},
        retry=configs[0].run.retry,
        seen=seen,
    )


def make_task(
    config: Config,
    identity: Identity,
    folder: SweepFolder,
    num: int,
    *,
    compared: dict[str, int],
    state: State | None = None,
) -> Task:
    """A run with its place in a sweep.

    Args:
      config: What to run.
      identity: Its names.
      folder: The sweep's.
      num: Its position.
      state: What the journals say of it; None where they don't.
      compared: The runs that compare compiled with eager, by what they compare; this one is added where none does yet.
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
    return Task(job=job, config=config, folder=run_folder, state=state or left_over(run_folder))


def left_over(folder: RunFolder) -> State:
    """The state of a run that no journal says the end of."""
    return State.interrupted if folder.path.exists() else State.new


def refreshed(plan: Plan) -> Plan:
    """`plan` with what is there now."""
    states, tracked = known_states(plan.folder, [task.job.identity.run_id for task in plan.tasks])
    tasks = []
    for task in plan.tasks:
        run_id = task.job.identity.run_id
        state = states.get(run_id) or left_over(task.folder)
        tasks.append(replace(task, state=state, tracked=run_id in tracked))
    return replace(plan, tasks=tasks)


@dataclass(frozen=True)
class Given:
    """Variables that a run starts from instead of init's.

    Attributes:
      path: Where they were found.
      tree: The variables.
      digest: Their digest.
      train_state: What training goes on from, where they are those of a run that was trained.
    """

    path: str
    tree: Any
    digest: str
    train_state: Any = None

    def digest_for(self, run: Run) -> str:
        """The digest of all that `run` takes from here: one that trains takes the optimiser's state too."""
        if self.train_state is None or not run.train.steps:
            return self.digest
        return canonical_digest([self.digest, trees.tree_digest(trees.leaves(self.train_state))])

    def require_steps(self, run: Run) -> None:
        """Judges whether `run` has anything left to train.

        Raises:
          ConfigError: As many steps were made before.
        """
        num_made = int(self.train_state["step"]) if self.train_state is not None else 0
        if 0 < run.train.steps <= num_made:
            reason = f"{self.path} has made {num_made}, and the steps are counted from its first"
            raise ConfigError("train.steps", run.train.steps, reason, f"train.steps={num_made + run.train.steps}")


def given_variables(path: str | None) -> Given | None:
    """The variables in the Orbax checkpoint, or in the run, at `path`; None for None.

    Raises:
      ConfigError: There is no checkpoint.
    """
    if path is None:
        return None
    folder = Path(os.path.expanduser(path))
    if not folder.is_dir():
        with contextlib.suppress(StorageError):  # a sweep and the first letters of a run, as in `show`
            folder = find.find_run(folder).path
    run = RunFolder(folder)
    own = run.record.exists()
    record = store.read_record(run) if own else None
    if record and (reason := removal.sentence(record)):
        raise ConfigError("variables", path, reason, removal.again(record))
    try:
        tree = checkpoint.restore(run.checkpoint) if own else checkpoint.as_variables(checkpoint.restore(folder))
        state = checkpoint.restore(run.train_state) if run.train_state.is_dir() else None
    except checkpoint.CheckpointError as error:
        reason = "no Orbax checkpoint is there" if folder.is_dir() else "there is no such folder"
        raise ConfigError("variables", path, reason, "variables=outputs/SWEEP/runs/RUN") from error
    return Given(path, tree, trees.tree_digest(trees.leaves(tree)), state)


def draft_from(run: Run, identity: Identity, given: Given | None) -> Draft:
    """The traced program of `run` with the variables that it starts from; see `runner.program.draft`."""
    if given is None:
        return programs.draft(run, identity)
    return programs.draft(run, identity, given.tree, train_state=given.train_state)


def plan_data(plan: Plan) -> dict[str, Any]:
    """`plan` as JSON data, as it is kept in the sweep's folder."""
    study = {} if plan.study is None else {"study": dict(plan.study)}
    return {
        "sweep": plan.folder.name,
        "written_at": plan.written_at or now(),
        "origin": dict(plan.origin),
        **study,
        "num_configs": plan.num_configs,
        "environment": machine.fingerprint(),
        "runs": [run_data(task) for task in plan.tasks],
    }


def run_data(task: Task) -> dict[str, Any]:
    """One run of a plan as JSON data."""
    return {
        "num": task.job.num,
        "run_id": task.job.identity.run_id,
        "result_id": task.job.identity.result_id,
        "program_id": task.job.identity.program_id,
        "folder": f"runs/{task.folder.path.name}",
        "layer": task.job.run.layer.label,
        "overrides": list(task.job.overrides),
        "settings": task.config.redaction.settings(to_data(task.job.run)),
    }


def comparing(tasks: Sequence[Task]) -> dict[str, int]:
    """The runs that compare compiled with eager, by what they compare; see `make_task`."""
    jobs = [task.job for task in tasks if task.job.compare_eager]
    return {str(_subject(job.run, job.identity)): job.num for job in jobs}


def _subject(run: Run, identity: Identity) -> str | None:
    """What is compared once in a sweep; None where nothing is."""
    if run.checks.mode is ChecksMode.off or run.checks.eager is EagerCheck.never:
        return None
    return identity.program_id if run.checks.eager is EagerCheck.program else str(run.layer.target)


def validate(
    configs: Sequence[Config],
    errors_before: Sequence[tuple[str, UserError]] = (),
    *,
    elsewhere: str | None = None,
    known: Mapping[ProgramKey, Draft] | None = None,
) -> tuple[list[Identity], dict[ProgramKey, Draft]]:
    """Identity of every config and draft of every program; nothing is computed or written. See `make_plan`.

    Args:
      configs: What to run.
      errors_before: Said together with what is found here.
      elsewhere: See `make_plan`.
      known: Drafts that need not be traced again; they are in what is returned.

    Raises:
      UserError: Configs that can't run, all mistakes together.
    """
    identities: list[Identity] = []
    drafts: dict[ProgramKey, Draft] = dict(known or {})
    errors = list(errors_before)
    refused: dict[ProgramKey, UserError] = {}
    read = functools.cache(given_variables)
    for config in configs:
        try:
            given = read(config.run.variables)
            identity = identify(config.run, given, elsewhere=elsewhere)
        except UserError as error:
            errors.append((config.where, error))
            continue
        identities.append(identity)
        key = identity.program_id, config.run.device
        if key not in drafts and key not in refused:
            try:
                drafts[key] = draft_from(config.run, identity, given)
            except UserError as error:
                refused[key] = error
        if key in refused:
            errors.append((config.where, refused[key]))
    if errors:
        raise one_or_many(errors, len(configs) + len(errors_before))
    return identities, drafts


def identify(run: Run, given: Given | None, *, elsewhere: str | None = None) -> Identity:
    """The names of `run`, which starts from `given`.

    Raises:
      UserError: It can't run, as far as that is seen without tracing it.
    """
    if given:
        given.require_steps(run)
    identity = programs.identify(run, given.digest_for(run) if given else None, elsewhere=elsewhere)
    inputs.require(run.input, run.input_shape)
    retention.require(run.checkpoint)
    return identity


def _suggest_name(configs: Sequence[Config], run_ids: Sequence[str]) -> str:
    labels = list(dict.fromkeys(config.run.layer.label for config in configs))
    name = "-".join(labels) if len(labels) <= 3 else f"{len(labels)}-layers"
    return f"{name}-{canonical_digest(sorted(run_ids))[:8]}"


def known_states(folder: SweepFolder, run_ids: Sequence[str]) -> tuple[dict[str, State], set[str]]:
    """States of the runs that the folder knows of, and which of them are tracked.

    Raises:
      StorageError: The folder holds another plan.
    """
    if not folder.plan.exists():
        return {}, set()
    known = [run["run_id"] for run in store.read_plan(folder)["runs"]]
    if set(known) != set(run_ids):
        common = len(set(known) & set(run_ids))
        others = f"{len(known)} runs, {common} of them among these {len(run_ids)}"
        raise StorageError(f"{folder.path} holds another plan: {others}", "-m with sweep=another_name")
    states: dict[str, State] = {}
    tracked: set[str] = set()
    software_id = machine.fingerprint()["software_id"]
    nums = {run_id: num for num, run_id in enumerate(run_ids)}
    for event in store.read_events(folder):
        run_id = event.get("run_id")
        if run_id in nums and event["event"] in (Status.done.value, Status.failed.value):
            stale = event["event"] == Status.done.value and event["software_id"] != software_id
            states[run_id] = State.stale if stale else State(event["event"])
            tracked.discard(run_id)
        elif event["event"] == "tracked":
            tracked.add(str(run_id))
    confirmed = {run_id: _confirmed(folder.run(nums[run_id], run_id), state) for run_id, state in states.items()}
    return confirmed, tracked


def _confirmed(folder: RunFolder, state: State) -> State:
    """`state`, unless the run's record is missing or damaged: then the run counts as interrupted."""
    return state if store.has_whole_record(folder) else State.interrupted
