"""Multi-process runs: how all processes agree on the plan, and what processes other than the first do.

The first process does everything a single one does. The others take part in the computation and write their shards of
the checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.arrays import checkpoint
from runner.config.enums import CheckpointWriter
from runner.config.serialize import to_data
from runner.errors import UserError
from runner.experiment import distributed, execute
from runner.experiment.job import Result
from runner.records.paths import SweepFolder
from runner.records.record import Status
from runner.sweep.plan import Plan, Task
from runner.sweep.run_state import State

SAME_COMMAND = "the same command in every process, but for distributed.process_id"


def agree(make_plan: Callable[[], Plan]) -> Plan:
    """The plan of a run in every process, with the folder and state that the first one found.

    Args:
      make_plan: Makes this process's own plan.

    Raises:
      UserError: A process has no plan, or the plan of another run.
    """
    plan, refusal = None, None
    try:
        plan = make_plan()
    except UserError as error:
        refusal = error
    said = [json.loads(text) for text in distributed.exchange(json.dumps(_reply(plan, refusal)))]
    if refusal is not None:
        raise refusal
    assert plan is not None
    for num, one in enumerate(said):
        if one["refusal"]:
            raise UserError(f"process {num}: {one['refusal']}")
        if one["run"] != said[0]["run"]:
            raise UserError(f"process {num} has another config than process 0", SAME_COMMAND)
    folder = SweepFolder(Path(said[0]["folder"]))
    (task,) = plan.tasks
    place = folder.run(task.job.num, task.job.identity.run_id)
    task = dataclasses.replace(task, folder=place, state=State(said[0]["state"]))
    return dataclasses.replace(plan, folder=folder, tasks=[task])


def follow(plan: Plan) -> int:
    """Does a process's part of a run; returns 1 if the run failed.

    Args:
      plan: The plan of one run.
    """
    return max([_follow(task, plan) for task in plan.pending()], default=0)


def _follow(task: Task, plan: Plan) -> int:
    result, folder = _result(task, plan), task.folder
    if result.record.status is Status.failed:
        return 1
    if task.job.run.checkpoint.writer is CheckpointWriter.none or not result.record.variables:
        return 0
    try:
        checkpoint.save(result.variables, folder.checkpoint)
        if result.train_state is not None:
            checkpoint.save(result.train_state, folder.train_state)
    except checkpoint.CheckpointError:  # the first process could not save either, and reports it
        return 1
    return 0


def _result(task: Task, plan: Plan) -> Result:
    try:
        program = execute.prepare(plan.drafts[task.program_key], task.job.run)
    except Exception as error:  # noqa: BLE001 - the layer's own code may raise anything, and the first process says what
        return execute.failed(task.job, error)
    return execute.execute(task.job, program)


def _reply(plan: Plan | None, refusal: UserError | None) -> dict[str, Any]:
    """What a process tells the others about its plan."""
    if plan is None:
        return {"refusal": refusal.what if refusal else ""}
    (task,) = plan.tasks
    settings = to_data(task.job.run)
    del settings["distributed"], settings["output_root"]
    run = {"run_id": task.job.identity.run_id, "settings": settings}
    return {"refusal": "", "run": run, "folder": str(plan.folder.path.absolute()), "state": task.state.value}
