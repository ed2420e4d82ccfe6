"""The traces by which a layer's needs were found, where they can stand for the second ones of the check `pure`.

They can where the layer's code asked nothing that gives one number twice in a row and another one later or in the
next process, and moved no global generator or counter. All other impurity differs between any two traces.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax import nnx

from runner.bridge import needs as bridge_needs
from runner.bridge.needs import Needs
from runner.bridge.rngs import PARAMS
from runner.bridge.wrap import Bridged
from runner.checks.programs import digests
from runner.checks.user_code import next_process, swapped


@dataclass(frozen=True, kw_only=True)
class FirstTraces:
    """Digests of the first trace of init, and of apply as the pipeline calls it."""

    init: str
    apply: str


def find_needs(layer: Bridged, x: Any, label: str) -> Needs:
    """As `runner.bridge.needs.find_needs`; the traces stay only where they can stand for second ones."""
    modules = swapped.of_layers()
    generators, counters = generator_states(), counted(modules)
    with next_process.heard(modules) as asked:
        found = bridge_needs.find_needs(layer, x, label)
    return found.without_traces() if asked or moved_since(generators) or counted(modules) != counters else found


def digested(
    needs: Needs, *, rngs: Sequence[str], init_rngs: Sequence[str] | None, mutable: Sequence[str]
) -> FirstTraces | None:
    """Digests of the traces of `needs`; None where there are none, or the pipeline gives other streams than all."""
    streams = [name for name in needs.streams if name != PARAMS]
    if needs.traces is None or init_rngs is not None or [name for name in rngs if name != PARAMS] != streams:
        return None
    output, updates = needs.traces.returned
    num_output = len(jax.tree.leaves(output))
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(updates)[0]]
    wanted = [num_output + num for num, path in enumerate(paths) if path[0].key in mutable]
    return FirstTraces(
        init=digests.digest(needs.traces.init),
        apply=digests.digest(needs.traces.apply, [*range(num_output), *wanted]),
    )


def counted(modules: Iterable[ModuleType]) -> list[Any]:
    """How far the user's code has counted: numbers, counters and sizes in its modules and in classes of its layers."""
    found: list[Any] = []
    unread: list[Mapping[str, Any]] = [vars(module) for module in modules]
    kinds: set[type] = set()
    while unread:
        for value in list(unread.pop().values()):
            kind = type(value)
            if kind in (int, float, bool):
                found.append(value)
            elif kind in (list, dict, set):
                found.append(len(value))
            elif kind is itertools.count:
                found.append(repr(value))
            elif isinstance(value, type) and nnx.Module in value.__mro__ and value not in kinds:
                kinds.add(value)
                unread.append(vars(value))
    return found


def generator_states() -> dict[str, Any]:
    """The states of the global generators, by name."""
    kind, keys, *position = np.random.get_state(legacy=True)
    return {"random": random.getstate(), "numpy.random": (kind, np.asarray(keys).tobytes(), *position)}


def moved_since(before: dict[str, Any]) -> list[str]:
    """The global generators that were drawn from or seeded since `before`."""
    return [name for name, state in generator_states().items() if state != before[name]]
