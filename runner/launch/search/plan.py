"""Growing plans: a search does not know its configs until the first ones have run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.arrays import devices
from runner.config import serialize
from runner.config.composing.composed import Config
from runner.config.enums import Retry
from runner.errors import StorageError, UserError
from runner.experiment.identity import Identity
from runner.records import paths, store
from runner.records.paths import SweepFolder
from runner.sweep.plan import Plan, comparing, make_task
from runner.sweep.run_state import FINISHED, State, known_states
from runner.sweep.validate import validate


def begin(
    folder: SweepFolder, study: Mapping[str, Any], *, origin: Mapping[str, Any], remote_platform: str | None = None
) -> Plan:
    """The plan that is in `folder`, to be made longer; one without runs where there is none.

    Its runs have the state that they have now, and nothing is traced for them. What has ended is not done again: it was
    told. Writes nothing.

    Args:
      folder: Where.
      study: What the search is for.
      origin: The command that makes it.
      remote_platform: See `runner.sweep.plan.make_plan`.

    Raises:
      StorageError: The folder can't be used, or holds a plan that is no study's.
    """
    paths.require_plain(folder.path)
    paths.require_writable(folder.path)
    plan = Plan(folder=folder, tasks=[], drafts={}, num_configs=0, origin=origin, retry=Retry.none, study=study)
    if not folder.plan.exists():
        return plan
    data = store.read_plan(folder)
    if "study" not in data:
        raise StorageError(f"{folder.path} holds a sweep, and no study", "-m with sweep=another_name")
    known = known_states(folder, [run["run_id"] for run in data["runs"]])
    compared: dict[str, int] = {}
    tasks = []
    for run in data["runs"]:
        names = {key: run[key] for key in ("run_id", "result_id", "program_id")}
        config = Config(run=serialize.from_data(run["settings"]), overrides=tuple(run["overrides"]))
        device = devices.find_device("cpu" if remote_platform else config.run.device)
        state = known.states.get(run["run_id"])
        task = make_task(config, Identity(**names, device=device), folder, run["num"], state=state, compared=compared)
        tasks.append(replace(task, tracked=run["run_id"] in known.tracked))
    return replace(plan, tasks=tasks, num_configs=len(tasks), concluded=known.concluded, written_at=data["written_at"])


def longer(
    plan: Plan, configs: Sequence[Config], *, remote_platform: str | None = None
) -> tuple[Plan, list[str | UserError]]:
    """`plan` with runs for `configs` too, and for each of these the id of its run, or why it can't run.

    A config that the plan has already gets the run that is there. Writes nothing.
    """
    seen = store.journal_sizes(plan.folder)
    tasks = {task.job.identity.run_id: task for task in plan.tasks}
    compared = comparing(plan.tasks)
    drafts = dict(plan.drafts)
    answers: list[str | UserError] = []
    for config in configs:
        try:
            (identity,), drafts = validate([config], remote_platform=remote_platform, known=drafts)
        except UserError as error:
            answers.append(error)
            continue
        run_id = identity.run_id
        answers.append(run_id)
        there = tasks.get(run_id)
        if there is None or there.state not in FINISHED:
            num = len(tasks) if there is None else there.job.num
            damaged = there.state if there is not None and there.state is State.damaged else None
            tasks[run_id] = make_task(config, identity, plan.folder, num, state=damaged, compared=compared)
    return replace(plan, tasks=list(tasks.values()), drafts=drafts, num_configs=len(tasks), seen=seen), answers
