"""What to type for arguments that a constructor needs and did not get: values with which it was tried."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from runner.bridge import hosts
from runner.bridge.calling import hints, sizes
from runner.bridge.needs import find_needs
from runner.bridge.wrap import Bridged
from runner.config.settings.run import Run
from runner.errors import MissingArgumentsError, UserError
from runner.experiment import inputs
from runner.experiment.sized import wrapped

FEATURES = 8

# One after the other; the second for arguments whose name says that they are no size.
NUMBERS = (32, 8, 4, 2, 1, 0.1)
FRACTIONS = (0.1, 0.1, 0.1, 0.1, 0.1, 1)
FRACTION = re.compile(r"rate|prob|drop|scale|eps|momentum|decay|alpha|temperature")


def explained(run: Run, error: MissingArgumentsError) -> MissingArgumentsError:
    """`error` with values for what is missing: those that x can be called with, or else that the layer is built from.

    It is returned as it is where no value works that could be guessed.
    """
    built = None
    x = jax.ShapeDtypeStruct(tuple(run.input_shape), inputs.input_dtype(run.input))
    for typed, other in _candidates(run, error.keys):
        try:
            layer = wrapped(other)
            model = hosts.put_around(layer, other.host)
        except UserError:
            continue
        if _takes(model, x):
            return MissingArgumentsError(error.what, error.keys, typed)
        built = built or (typed if hints.constructs(layer) else None)
    return MissingArgumentsError(error.what, error.keys, built)


def _takes(model: Bridged, x: Any) -> bool:
    try:
        find_needs(model, x, "")
    except UserError:
        return False
    return True


def _candidates(run: Run, keys: Sequence[str]) -> Iterator[tuple[str, Run]]:
    """What may be typed, and the run that it gives."""
    words = []
    # Only where `features` is null is the size of the output still missing.
    sized = [key for key in keys if key.startswith("layer.") and sizes.OUTPUTS.fullmatch(key.rpartition(".")[2])]
    if sized and run.features is None:
        run, words = dataclasses.replace(run, features=FEATURES), [f"features={FEATURES}"]
    rest = [key for key in keys if key not in sized]
    if not rest:
        yield " ".join(words), run
        return
    for number, fraction in zip(NUMBERS, FRACTIONS, strict=True):
        values = {key: fraction if FRACTION.search(key.rpartition(".")[2]) else number for key in rest}
        yield " ".join([*words, *(f"{key}={value}" for key, value in values.items())]), _with(run, values)


def _with(run: Run, values: dict[str, float]) -> Run:
    for key, value in values.items():
        group, _, name = key.split(".", 2)
        settings = getattr(run, group)
        changed = dataclasses.replace(settings, kwargs={**settings.kwargs, name: value})
        run = dataclasses.replace(run, **{group: changed})
    return run
