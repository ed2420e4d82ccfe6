"""Whether finished runs are still what their records say: files, output and checkpoints, by size and digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runner.arrays import checkpoint, trees
from runner.errors import StorageError
from runner.experiment.saved_run import SavedRun
from runner.records import store
from runner.records.disk import files, intact
from runner.records.paths import RunFolder
from runner.records.record import Record
from runner.sweep.plan import Plan, Task
from runner.sweep.run_state import FINISHED, State
from runner.sweep.writing import steps


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What the folder of a run holds.

    Attributes:
      wrong: What is not as the record says, one sentence each.
      output: The arrays of the output.
      variables: The restored variables; None if there is no checkpoint, or it can't be restored.
    """

    wrong: list[str]
    output: Mapping[str, np.ndarray]
    variables: Any


def with_damage(plan: Plan) -> Plan:
    """`plan` where finished runs that are not what their records say are `damaged`, so that they are redone."""
    return replace(plan, tasks=[_checked(task) for task in plan.tasks])


def _checked(task: Task) -> Task:
    if task.state not in FINISHED or not damage(task.folder):
        return task
    return replace(task, state=State.damaged, adopted=False)


def damage(folder: RunFolder) -> list[str]:
    """What is not as the record of the run says, one sentence each."""
    if found := linked(folder):
        return found
    try:
        return read(SavedRun(folder)).wrong
    except StorageError as error:
        return [error.what]


def linked(folder: RunFolder) -> list[str]:
    """The links in a run's folder, one sentence each: nothing is read through them."""
    return [f"{name} is a link, and a run leaves none" for name in files.links(folder)]


def read(saved: SavedRun, *, placed: bool = False) -> Contents:
    """Reads a run's files and compares them with its record.

    Args:
      saved: The run.
      placed: Whether the variables are restored onto the run's mesh, if it had one.

    Raises:
      StorageError: Its record is missing or damaged.
    """
    record, folder = saved.record, saved.folder
    wrong = [*intact.misplaced(folder, record), *intact.changed_files(folder, record)]
    output, parts = _output(folder, record)
    wrong += parts
    variables: Any = None
    if record.saved is not None or not record.variables:
        try:
            variables = saved.variables(saved.places() if placed else None)
        except StorageError as error:
            wrong.append(error.what)
    return Contents(wrong=[*wrong, *_training(folder, record)], output=output, variables=variables)


def _output(folder: RunFolder, record: Record) -> tuple[Mapping[str, np.ndarray], list[str]]:
    if not record.output:
        return {}, []
    try:
        output = store.read_output(folder, record)
    except StorageError as error:
        return {}, [error.what]
    wrong = [one.path or "y" for one in record.output if trees.array_digest(output[one.path]) != one.digest]
    file = folder.output(single=list(output) == [""]).name
    return output, [f"{file}: {name} has other bits than the record says" for name in wrong]


def _training(folder: RunFolder, record: Record) -> list[str]:
    """What is wrong with the optimiser state and the kept steps."""
    state = record.train.state if record.train else None
    if state is None or state.removed is not None:
        return []
    wrong = []
    try:
        found = trees.tree_digest(trees.leaves(checkpoint.restore(folder.train_state)))
        wrong = [] if found == state.digest else [f"{folder.train_state} is not what the run saved"]
    except checkpoint.CheckpointError as error:
        wrong = [f"{folder.train_state} can't be restored: {error.__cause__ or error}"]
    kept = sorted(folder.steps.iterdir()) if folder.steps.is_dir() else []
    damaged = [(path, steps.damage(path)) for path in kept if path.name.isdecimal()]
    return wrong + [f"{path} is not what the run saved: {reason}" for path, reason in damaged if reason]
