"""bridge-runner: the experiment runner for one NNX layer inside a Linen pipeline.

`python -m runner` is the command line. From Python:

  check(model, x)           every check of a Linen module; `.raise_for_failures()` in your own tests
  sweep(seed=range(3), …)   runs a sweep and gives its results
  load(sweep)               the results of a saved sweep
  reload(run)               a saved run, ready to apply
  nnx_inside_linen(…)       the worked example: an NNX layer as a Linen module
  execute(job, program)     one run, in memory
  UserError                 what a wrong argument raises, with what to write instead
"""

import importlib
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.bridge.example import nnx_inside_linen
    from runner.checks.results.report import check
    from runner.errors import UserError
    from runner.experiment.execute import execute
    from runner.experiment.saved_run import reload
    from runner.launch.api import sweep
    from runner.report.frame import load

__all__ = ["UserError", "check", "execute", "load", "nnx_inside_linen", "reload", "sweep"]

# JAX takes a second to import: each is imported when it is first used.
_MODULES = {
    "UserError": "runner.errors",
    "check": "runner.checks.results.report",
    "execute": "runner.experiment.execute",
    "load": "runner.report.frame",
    "nnx_inside_linen": "runner.bridge.example",
    "reload": "runner.experiment.saved_run",
    "sweep": "runner.launch.api",
}


def __getattr__(name: str) -> Any:
    if sys.version_info < (3, 11):  # noqa: UP036 - a checkout is imported by any Python; pip has refused the others
        raise ImportError(f"bridge-runner needs Python 3.11 or later, and this is {sys.version.split()[0]}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]


class _Package(types.ModuleType):
    """This package, whose `sweep` stays the function when Python binds the subpackage of that name to it."""

    def _sweep(self) -> Callable[..., Any]:
        return importlib.import_module(_MODULES["sweep"]).sweep

    def _ignore(self, module: types.ModuleType) -> None:
        """`runner.sweep.plan` and the others are still imported by their names."""

    if not TYPE_CHECKING:
        sweep = property(_sweep, _ignore)


sys.modules[__name__].__class__ = _Package
