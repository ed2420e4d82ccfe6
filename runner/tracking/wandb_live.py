"""Live W&B runs: kept open during training, so that the losses can be followed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.tracking import payload
from runner.tracking.wandb_runs import LEAN, WandbRuns, environment_of


class LiveRun:
    """A W&B run that is open during training; see `tracker.Follow`.

    Args:
      runs: Opens it.
      init: Arguments to open it with.
      opened: Holds this run, by W&B id, while it is open.

    Attributes:
      run: The run, once it is open.
      num_told: How many losses it has received.
    """

    def __init__(self, runs: WandbRuns, init: Mapping[str, Any], opened: dict[str, LiveRun]) -> None:
        self._runs = runs
        self._init = init
        self._opened = opened
        self._given_up = False
        self.run: Any = None
        self.num_told = 0

    @property
    def folder(self) -> Path | None:
        """The run's files."""
        return None if self.run is None else Path(self.run.settings.sync_dir)

    def tell(self, first_step: int, losses: Sequence[float]) -> None:
        """Adds the losses to the run's history."""
        if self._given_up:
            return
        with self._runs.warning_once(self._init["id"]), environment_of(self._runs.folder.wandb):
            try:
                if self.run is None:
                    self._open()
                for row in payload.loss_rows(losses, first_step):
                    self.run.log(row)
                self.num_told += len(losses)
            except Exception:
                self._give_up()
                raise

    def end(self) -> None:
        """Does nothing: reported losses are on their way to the file within half a second."""

    def _open(self) -> None:
        self.run = self._runs.open(self._init, LEAN)
        self._opened[self._init["id"]] = self
        self.run.define_metric(payload.LOSS, step_metric=payload.AXES[payload.LOSS])

    def _give_up(self) -> None:
        """Leaves the run to `log`, which creates it again."""
        folder, run, self.run, self._given_up = self.folder, self.run, None, True
        self._opened.pop(self._init["id"], None)
        with contextlib.suppress(Exception):
            run.finish(exit_code=1)
            shutil.rmtree(str(folder))
