"""The launcher: runs its jobs in this process, all with the compiled programs that they share.

Every Hydra program on the machine imports this file when it starts: what costs time is imported when jobs are launched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher

ConfigStore.instance().store(
    group="hydra/launcher",
    name="bridge_runner",
    node={"_target_": "hydra_plugins.bridge_runner.launcher.BridgeRunnerLauncher"},
    provider="bridge-runner",
)


class BridgeRunnerLauncher(Launcher):
    """Runs jobs that any sweeper composed."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keeps what Hydra gives; see `hydra.plugins.launcher.Launcher`."""
        from runner.launch import hydra_settings

        hydra_settings.require_open_folder(config)
        self._context = hydra_context
        self._task_function = task_function
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Runs one batch of jobs; one `JobReturn` each."""
        from runner.launch import sweeper

        return sweeper.launch(self._context, self._task_function, self._config, job_overrides, initial_job_idx)
