"""A run with the constructor's usual sizes filled in by name, where they were not given."""

from __future__ import annotations

import dataclasses
import functools

from runner.bridge import wrap
from runner.bridge.calling import sizes
from runner.bridge.wrap import Bridged
from runner.config.settings.layer import LayerSettings
from runner.config.settings.run import Run
from runner.experiment import inputs


def sized(run: Run) -> Run:
    """`run` with `layer.kwargs` for the sizes that the constructor needs; `run` itself where nothing is missing.

    Raises:
      LayerError: The layer can't be imported, or is no NNX module or factory.
    """
    if all(key in run.layer.kwargs for key in _needed(str(run.layer.target))):
        return run
    layer = wrap.filled(run.layer, run.input_shape, run.features)
    return run if layer is run.layer else dataclasses.replace(run, layer=layer)


def added(run: Run) -> dict[str, int]:
    """What `sized` fills in, by the constructor's names."""
    return {key: value for key, value in sized(run).layer.kwargs.items() if key not in run.layer.kwargs}


def wrapped(run: Run) -> Bridged:
    """The wrapped layer of `run`, called as its settings say.

    Raises:
      LayerError: As in `wrap.wrap`.
      ConfigError: As in `wrap.wrap`, or an array of `input.shapes` can't be made.
    """
    return wrap.wrap(sized(run).layer, x_name=run.input.name, more=inputs.more_inputs(run.input))


# Once per class: this is asked several times per run.
@functools.cache
def _needed(target: str) -> tuple[str, ...]:
    return tuple(sizes.missing(LayerSettings(target=target), wrap.resolve_target(target)))
