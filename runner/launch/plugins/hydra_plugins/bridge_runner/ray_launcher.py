"""The launcher on Ray: jobs of any sweeper as tasks of a cluster, or of processes of this machine.

Every Hydra program on the machine imports this file when it starts: what costs time is imported when jobs are launched.
It stands in no store of Hydra's, where it would take the name of the stock launcher from other programs; conf/ has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.plugins.launcher import Launcher


class RayLauncher(Launcher):
    """Runs jobs as tasks of Ray.

    Args:
      settings: Fields of `runner.launch.ray.RaySettings`.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keeps what Hydra gives; see `hydra.plugins.launcher.Launcher`."""
        self.context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Runs one batch of jobs; one `JobReturn` each."""
        from runner.launch import ray

        return ray.launch(ray.RaySettings(**self._settings), self, job_overrides, initial_job_idx)
