"""bridge-runner: the experiment runner for one NNX layer inside a Linen pipeline.

`python -m runner` is the command line. From Python: `runner.reload` gives a saved run, ready to apply;
`runner.bridge.nnx_inside_linen` is the worked example, `runner.experiment.execute` one run.
"""

from typing import Any

# Where the names of the package are; imported when they are used, since `ls` and `show` do without JAX.
NAMES = {"reload": "runner.reloading"}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module runner has no attribute {name}")
    import importlib

    return getattr(importlib.import_module(NAMES[name]), name)
