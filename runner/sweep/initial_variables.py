"""Initial variables for a run in place of init's, from a checkpoint of any format or another run."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.arrays import checkpoint, readings, saved_trees, trees
from runner.arrays.declared_sizes import TooLargeError
from runner.config.serialize import canonical_digest
from runner.config.settings.run import Run
from runner.errors import ConfigError, StorageError
from runner.experiment import draft
from runner.experiment.draft import Draft
from runner.experiment.identity import Identity
from runner.records import find, store
from runner.records.disk import removal
from runner.records.paths import RunFolder


@dataclass(frozen=True)
class InitialVariables:
    """Variables that a run starts from instead of init's.

    Attributes:
      path: Where they were found.
      tree: The saved tree; see `readings.as_variables`.
      digest: The digest of the variables.
      train_state: The state that training resumes from, if they come from a trained run.
    """

    path: str
    tree: Any
    digest: str
    train_state: Any = None

    def digest_for(self, run: Run) -> str:
        """The digest of everything that `run` uses from here: a training run also uses the optimiser state."""
        if self.train_state is None or not run.train.steps:
            return self.digest
        return canonical_digest([self.digest, trees.tree_digest(trees.leaves(self.train_state))])

    def require_steps(self, run: Run) -> None:
        """Validates that `run` has steps left to train.

        Raises:
          ConfigError: That many steps have already been trained.
        """
        num_made = int(self.train_state["step"]) if self.train_state is not None else 0
        if 0 < run.train.steps <= num_made:
            reason = f"{self.path} has made {num_made}, and the steps are counted from its first"
            raise ConfigError("train.steps", run.train.steps, reason, f"train.steps={num_made + run.train.steps}")


def read_initial_variables(path: str | None) -> InitialVariables | None:
    """Reads the variables of the checkpoint, or of the run, at `path`; None for None.

    Raises:
      ConfigError: There is no checkpoint at `path`.
    """
    if path is None:
        return None
    folder, place = Path(os.path.expanduser(path)), path
    if not os.path.isdir(folder):
        with contextlib.suppress(StorageError, OSError):
            folder = _found(folder)
            place = str(folder)
    run = RunFolder(folder)
    own = os.path.exists(run.record)  # unlike Path.exists, of a folder that may not be read too
    record = store.read_record(run) if own else None
    if record and (reason := removal.sentence(record)):
        raise ConfigError("variables", path, reason, removal.again(record))
    try:
        tree = checkpoint.restore(run.checkpoint) if own else saved_trees.read(place, None).variables
        state = checkpoint.restore(run.train_state) if own and run.train_state.is_dir() else None
    except checkpoint.CheckpointError as error:
        reason = f": {error.__cause__}" if isinstance(error.__cause__, TooLargeError) else ""
        what = f"its checkpoint is damaged{reason}"
        raise ConfigError("variables", path, what, f"bridge-runner verify {path}") from error
    except StorageError as error:
        typed = error.suggestion and _typed(error.suggestion)
        raise ConfigError("variables", path, error.what, typed or "variables=outputs/SWEEP/runs/RUN") from error
    variables = tree if own else readings.as_variables(tree)
    return InitialVariables(path, tree, trees.tree_digest(trees.leaves(variables)), state)


def _found(place: Path) -> Path:
    """A run's folder by a sweep and the prefix of a run, as in `show`, or the checkpoint in it."""
    if place.name == RunFolder(place).checkpoint.name:
        return find.find_run(place.parent).checkpoint
    return find.find_run(place).path


def _typed(suggestion: str) -> str:
    """What to type in place of a path; other advice stays as it is."""
    return suggestion if " " in suggestion else f"variables={suggestion}"


def draft_from(run: Run, identity: Identity, initial: InitialVariables | None) -> Draft:
    """The traced program of `run` with its initial variables; see `runner.experiment.draft.make_draft`."""
    if initial is None:
        return draft.make_draft(run, identity)
    return draft.make_draft(run, identity, initial.tree, train_state=initial.train_state)
