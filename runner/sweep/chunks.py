"""Which runs of a sweep train together, and what of them is trained and not yet executed."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

from runner.errors import StorageError, end_if_meant
from runner.experiment import trained_run
from runner.experiment.program import Program
from runner.experiment.train.curve import Stopped
from runner.experiment.train.population import Member
from runner.experiment.train.training import Trained
from runner.experiment.trained_run import Seen
from runner.sweep.plan import Task


class Chunks:
    """The runs of a sweep in groups that train as one program.

    Args:
      mark: Called with `train` before runs are trained together, and with `trained` after, with their ids.
    """

    def __init__(self, mark: Callable[[str, Sequence[str]], None]) -> None:
        self._mark = mark
        self._chunks: dict[int, Sequence[Task]] = {}
        self._found: dict[int, Trained | Exception] = {}
        self._given: set[int] = set()

    def arrange(self, tasks: Sequence[Task], *, apart: bool) -> None:
        """Forms the groups.

        Args:
          tasks: The runs to come, ordered by program.
          apart: Whether each run is a group of its own: one of them may end the process.
        """
        self._chunks = {}
        for _, alike in itertools.groupby([task for task in tasks if task.job.run.train.num_together], key=_alike):
            group = list(alike)
            size = 1 if apart else group[0].job.run.train.num_together
            for start in range(0, len(group), size):
                chunk = group[start : start + size]
                self._chunks |= {task.job.num: chunk for task in chunk}

    def holds(self, task: Task) -> bool:
        """Whether a run is trained and only has to be executed."""
        return isinstance(self._found.get(task.job.num), Trained)

    def trained(self, task: Task, program: Program, seen: Callable[[Task], Seen]) -> Trained:
        """The training of a run; the first one of a group trains them all.

        Args:
          task: The run.
          program: Its program.
          seen: Says who sees a run while it trains.

        Raises:
          Stopped: They were asked to end, and have saved their last step.
          StorageError: A step can't be written.
        """
        num = task.job.num
        try:
            if num not in self._found:
                self._train(task, program, seen)
            found = self._found.pop(num)
        finally:
            self._given.add(num)
        if isinstance(found, Exception):
            raise found
        return found

    def _train(self, task: Task, program: Program, seen: Callable[[Task], Seen]) -> None:
        """Trains those of a group that are at the same step as `task`: what was interrupted goes on apart."""
        began = time.perf_counter_ns()
        # What is trained is not touched again: it may be written already.
        over = self._found.keys() | self._given
        group = [one for one in self._chunks.get(task.job.num, [task]) if one.job.num not in over]
        made = {one.job.num: _member(one, program, seen) for one in group}
        mine = made[task.job.num]
        if isinstance(mine, Exception):
            self._found[task.job.num] = mine
            return
        members = [
            (one, member)
            for one in group
            if isinstance(member := made[one.job.num], Member) and member.step == mine.step
        ]
        nums, ids = [one.job.num for one, _ in members], [one.job.identity.run_id for one, _ in members]
        self._mark("train", ids)
        results: Sequence[Trained | Exception]
        try:
            results = trained_run.train_members(program, [(one.job.run, member) for one, member in members])
        except (Stopped, StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - the layer's own code may raise anything
            end_if_meant(error)
            results = [error] * len(members)
        self._mark("trained", ids)
        share_s = (time.perf_counter_ns() - began) / 1e9 / len(members)
        assert program.together is not None
        together = dataclasses.replace(program.together, runs=nums)
        for num, result in zip(nums, results, strict=True):
            if isinstance(result, Trained):
                info = dataclasses.replace(result.info, together=together)
                result = dataclasses.replace(result, info=info, share_s=share_s)
            self._found[num] = result


def _alike(task: Task) -> tuple[Any, ...]:
    """What runs of one group have in common."""
    train = task.job.run.train
    return *task.program_key, train.num_together, train.steps, train.save_every


def _member(task: Task, program: Program, seen: Callable[[Task], Seen]) -> Member | Exception:
    """A run ready to be trained with others, or why it isn't."""
    run = task.job.run
    try:
        arguments = trained_run.arguments_of(run, program)
        initial = trained_run.initial_of(program, arguments)
        return trained_run.make_member(run, program, initial, arguments, seen=seen(task))
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 - the layer's own code may raise anything
        end_if_meant(error)
        return error
