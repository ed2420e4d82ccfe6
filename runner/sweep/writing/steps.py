"""Step checkpoints of a training run, kept by Orbax's own `CheckpointManager`: a killed run resumes from them.

A step is a plain Orbax checkpoint (`steps/40/default`) of the variables, the step number and the optimiser state.
Its metadata holds the loss curve so far and a digest of everything. Saving blocks until the step is on disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.arrays import checkpoint, trees
from runner.arrays.checkpoint import CheckpointError
from runner.config.serialize import canonical_digest
from runner.errors import StorageError
from runner.experiment.train.curve import Curve, Step, Stopped
from runner.experiment.train.train_state import STATE_KEYS

MAKE_ROOM = "make room; the same command goes on from here"


class StepFolder:
    """The step checkpoints of one run.

    Args:
      path: The folder; created with the first step.
      every: Steps between two saves; the last step is always saved.
      keep: How many of the latest steps to keep.
      software_id: The id of this process's software.
      stopping: Polled after every step; True saves the step and ends the run.
      warn: Called with one sentence.
    """

    def __init__(
        self,
        path: Path,
        *,
        every: int,
        keep: int,
        software_id: str,
        stopping: Callable[[], bool] = lambda: False,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._path = path.absolute()
        self._every = every
        self._keep = keep
        self._software_id = software_id
        self._stopping = stopping
        self._warn = warn

    def last(self) -> Step | None:
        """The last intact step; None if there is none.

        Damaged steps after it are reported and removed, as are a kill's leftovers: a step half written or half removed.
        """
        whole: list[Step] = []
        damaged = []
        for path in self._others():
            shutil.rmtree(path, ignore_errors=True)
        for num in self._nums():
            try:
                step = self._read(num)
            except CheckpointError as error:
                damaged += [] if whole else [f"step {num} was damaged ({error})"]
            else:
                if len(whole) < self._keep:
                    whole.append(step)
                    continue
            shutil.rmtree(self._path / str(num), ignore_errors=True)
        where = f"step {whole[0].num}" if whole else "the start"
        for text in damaged:
            self._warn(f"{self._path.parent.name}: {text}: going on from {where}")
        if not whole:
            return None
        whole[0].curve.remarks.extend(damaged)
        return whole[0]

    def made(self, num: int, is_last: bool, make: Callable[[], Step]) -> None:
        """Saves step `num` if it is due.

        Args:
          num: The number of steps made so far.
          is_last: Whether this is the final step.
          make: Returns the step; called only if it is saved.

        Raises:
          Stopped: The run must end here; the step is saved.
          CheckpointError: Orbax can't restore the step.
          StorageError: The step can't be written.
        """
        stopping = not is_last and self._stopping()
        if is_last or stopping or num % self._every == 0:
            self._save(make())
        if stopping:
            raise Stopped(num)

    def _nums(self) -> list[int]:
        """Numbers of the saved steps, latest first."""
        return sorted((int(one.name) for one in self._path.glob("*") if one.name.isdecimal()), reverse=True)

    def _others(self) -> list[Path]:
        """Everything in the folder that is not a step."""
        return [one for one in self._path.glob("*") if not one.name.isdecimal()]

    def _read(self, num: int) -> Step:
        tree = checkpoint.restore(self._path / str(num))
        about = checkpoint.step_metadata(self._path, num)
        if about.get("digest") != _digest(tree, about):
            raise CheckpointError("it has other bits than were saved")
        curve = Curve(**about["curve"])
        if about["software_id"] != self._software_id:
            curve.remarks.append(f"the steps up to {num} were made by other software")
        state = {key: tree.pop(key) for key in STATE_KEYS}
        return Step(num=num, variables=tree, state=state, curve=curve)

    def _save(self, step: Step) -> None:
        taken = step.variables.keys() & STATE_KEYS
        if taken:
            raise CheckpointError(f"a collection is called {', '.join(taken)}, as a part of the state is")
        tree = {**step.variables, **step.state}
        about: dict[str, Any] = {"curve": vars(step.curve), "software_id": self._software_id}
        about["digest"] = _digest(tree, about)
        try:
            checkpoint.save_step(tree, self._path, step.num, keep=self._keep, metadata=about)
        except CheckpointError as error:
            if not checkpoint.is_disk_full(error):
                raise
            what = f"writing step {step.num} to {self._path}: No space left on device"
            raise StorageError(what, MAKE_ROOM) from error


def damage(path: Path) -> str | None:
    """What is wrong with the step in the folder `path`; None if it is intact."""
    folder = StepFolder(path.parent, every=1, keep=1, software_id="")
    try:
        folder._read(int(path.name))
    except CheckpointError as error:
        return str(error)
    return None


def _digest(tree: Any, about: dict[str, Any]) -> str:
    rest = {key: value for key, value in about.items() if key != "digest"}
    return canonical_digest([trees.tree_digest(trees.leaves(tree)), rest])
