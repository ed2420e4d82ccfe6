"""The sweeper: overrides to configs, all validated before the first run, each run once.

Every Hydra program on the machine imports this file when it starts: what costs time is imported when a sweep begins.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="bridge_runner",
    node={"_target_": "hydra_plugins.bridge_runner.sweeper.BridgeRunnerSweeper", "params": None},
    provider="bridge-runner",
)


class BridgeRunnerSweeper(Sweeper):
    """Sweeps over the product of all values.

    Args:
      params: Axes of a named experiment, by key, as they are typed: `{"seed": "range(0,8)"}`; what is typed wins.
    """

    def __init__(self, params: Any = None) -> None:
        super().__init__()
        self._params = dict(params or {})

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keeps what Hydra gives; see `hydra.plugins.sweeper.Sweeper`."""
        self._context = hydra_context
        self._task_function = task_function
        self._config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the sweep; the records, or what another launcher returns."""
        from runner.launch import sweeper

        named = [f"{key}={value}" for key, value in self._params.items()]
        return sweeper.sweep(self._context, self._task_function, self._config, [*named, *arguments])
