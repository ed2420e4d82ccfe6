"""bridge-runner: the experiment runner for one NNX layer inside a Linen pipeline.

`python -m runner` is the command line. From Python: `runner.check` judges a Linen module by every claim,
`runner.reload` gives a saved run, ready to apply, and `runner.load` the results of a sweep;
`runner.bridge.nnx_inside_linen` is the worked example, `runner.experiment.execute.execute` one run.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.checks.registry import judge_model as check
    from runner.experiment.saved_run import reload
    from runner.report.frame import load

    __all__ = ["check", "load", "reload"]
else:

    def __getattr__(name: str) -> Any:
        # JAX takes a second to import: only who asks for one of these pays it.
        if name == "check":
            from runner.checks.registry import judge_model

            return judge_model
        if name == "reload":
            from runner.experiment.saved_run import reload

            return reload
        if name == "load":
            from runner.report.frame import load

            return load
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
