"""The sweeper on Optuna: configs are asked for one after the other, and told how good they were.

Every Hydra program on the machine imports this file when it starts: what costs time is imported when a search begins.
It stands in no store of Hydra's, where it would take the name of the stock sweeper from other programs; conf/ has it.
"""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper


class OptunaSweeper(Sweeper):
    """Searches a space for the best run.

    Args:
      params: The space of a named experiment, by key, as it is typed; what is typed wins.
      sampler: `_target_` of a sampler of Optuna, and its arguments.
    """

    def __init__(self, params: Any = None, sampler: Any = None) -> None:
        super().__init__()
        self._params = dict(params or {})
        self._sampler = dict(sampler or {})

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keeps what Hydra gives; see `hydra.plugins.sweeper.Sweeper`."""
        self._context = hydra_context
        self._task_function = task_function
        self._config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the search, or goes on with it; the rows of its runs."""
        from runner.launch.search import loop

        named = [f"{key}={value}" for key, value in self._params.items()]
        return loop.search(
            self._context, self._task_function, self._config, [*named, *arguments], sampler=self._sampler
        )
