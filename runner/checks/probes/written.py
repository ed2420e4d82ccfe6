"""Which params a call writes, and whether flax's own normalisations do."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from runner.arrays import trees
from runner.bridge import lifts, rngs
from runner.bridge.tracing import jaxprs
from runner.checks.probes import unwrapped
from runner.checks.probes.subject import Subject

# They write the normalised weights into the module that they hold.
NORMALISING = (nnx.SpectralNorm, nnx.WeightNorm)


def by_flax(subject: Subject) -> list[trees.Path]:
    """Paths of params that flax's own normalisations change in the call."""
    places = _normalised(subject) if rngs.PARAMS in subject.needs.mutable else []
    return [path for path in _changed(subject) if _is_under(path, places)]


def by_the_layer(subject: Subject) -> list[trees.Path]:
    """Paths of params that anything else changes in the call."""
    paths = _changed(subject)
    places = _normalised(subject) if paths else []
    return [path for path in paths if not _is_under(path, places)]


def _changed(subject: Subject) -> list[trees.Path]:
    """Paths of params that init makes and a call gives another value, as a traced apply has it."""
    needs = subject.needs
    if rngs.PARAMS not in needs.mutable:
        return []

    def run(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        updates = subject.model.apply(variables, rngs.apply_keys(key, needs.streams), (rngs.PARAMS,), x)[1]
        return trees.unbox(updates)

    key = jax.ShapeDtypeStruct(subject.key.shape, subject.key.dtype)
    closed, updates = jax.make_jaxpr(run, return_shape=True)(needs.variables, key, trees.shapes(subject.x))
    given = {path for path, _ in trees.flatten(needs.variables)}
    got = [path for path, _ in trees.flatten(updates)]
    moved = jaxprs.changed(closed, range(len(got)))
    return [path for path, one in zip(got, moved, strict=True) if one and path in given]


def _normalised(subject: Subject) -> list[trees.Path]:
    """Paths of flax's normalisations in the wrapped layers, without the collection."""
    if lifts.is_wrapped(subject.model):
        layers = [("", subject.model.model)]
    else:
        layers = [(call.path, call.layer) for call in subject.layer_calls]
    found: list[Any] = []
    for name, layer in layers:
        construct = unwrapped.constructor(layer)
        assert construct is not None
        module = nnx.eval_shape(lambda construct=construct: construct({}))
        place = tuple(name.split("/")) if name else ()
        found += [(*place, *path) for path, inner in nnx.iter_modules(module) if isinstance(inner, NORMALISING)]
    return found


def _is_under(path: trees.Path, places: list[trees.Path]) -> bool:
    return any(path[1 : 1 + len(place)] == place for place in places)
