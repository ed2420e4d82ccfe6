"""Weights that a call uses and that lie in no variables: Params outside of the module, arrays of the file.

A part of the check `complete`. What a traced apply takes from neither its variables nor its input is a constant in it;
a constant is a weight if it is an `nnx.Param` somewhere, or if its numbers look drawn: tables of sines, positions,
masks and windows repeat their numbers or run smoothly along an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from runner.bridge import outside
from runner.bridge.tracing import jaxprs
from runner.checks.probes.randomness import is_surely_random
from runner.checks.probes.subject import Subject
from runner.checks.results import verdicts
from runner.checks.user_code.python_state import placed
from runner.errors import listed
from runner.records.record import Check

IN_A_MODULE = "self.weight = nnx.Param(…)  # an attribute of the module itself, or of an nnx.Module in it"

HIDDEN = "no tree and holds an nnx.Param"


def find(subject: Subject) -> dict[str, str]:
    """What each stray weight is, by its name."""
    consts = _constants(subject.applied)
    natives = subject.natives.values()
    given = [
        leaf for bridged in (subject.model, subject.layer) if bridged for leaf in jax.tree.leaves(dict(bridged.call))
    ]
    consts = [const for const in consts if not _is_among(const, [leaf for leaf in given if _is_array_like(leaf)])]
    own = [pair for native in natives for pair in native.arrays]
    reached = [pair for name, value in outside.values(*_code(subject)) for pair in _arrays_of(name, value)]
    held = [(name, value) for name, value in reached if _is_array_like(value)]
    found = {placed(path, name): HIDDEN for path, native in subject.natives.items() for name in native.hidden}
    for name, value in held:
        if isinstance(value, nnx.Param) and (np.size(value.get_value()) == 1 or _is_among(value.get_value(), consts)):
            found[name] = "an nnx.Param outside of the module"
    for const in consts:
        if is_surely_random(const) and not any(_equal(_plain(value), const) for name, value in held if name in found):
            names = [name for name, value in [*own, *held] if _equal(_plain(value), const)]
            kind = f"{const.dtype}{list(const.shape)}"
            found[names[0] if names else f"a constant {kind}"] = f"an array {kind} of drawn numbers"
    return found


def fail(check: str, found: dict[str, str]) -> Check:
    """The fail of `check` for such weights."""
    said = [f"{name} is {what}" for name, what in found.items()]
    detail = f"{listed(said)}: in no variables, so never trained, saved or restored, and the same for every seed"
    lines = [f"self.{name.split('.')[-1].split('[')[0]} = nnx.Param(…)  # in the constructor" for name in found]
    lines = [IN_A_MODULE] if HIDDEN in found.values() else [f"{lines[0]}; nnx.Variable for a constant"]
    return verdicts.fail(check, detail, lines[0], stray=list(found))


def _arrays_of(name: str, value: Any) -> list[tuple[str, Any]]:
    """A value by its name; of a module, its Params by theirs."""
    if not isinstance(value, nnx.Module):
        return [(name, value)]
    state = nnx.to_flat_state(nnx.state(value, nnx.Param))
    return [(".".join([name, *map(str, path)]), leaf) for path, leaf in state]


def _constants(closed: Any) -> list[Any]:
    """The arrays that a closed jaxpr holds and its outputs depend on."""
    return [const for const in jaxprs.constants(closed) if _is_array_like(const)]


def _code(subject: Subject) -> list[Any]:
    inside = [kind for native in subject.natives.values() for kind in native.kinds]
    return [getattr(subject.model.model, "nnx_class", type(subject.model.model)), *dict.fromkeys(inside)]


def _is_array_like(value: Any) -> bool:
    kinds = (nnx.Variable, np.ndarray, jax.Array)
    return isinstance(value, kinds) and not isinstance(value, jax.core.Tracer)


def _plain(value: Any) -> Any:
    return value.get_value() if isinstance(value, nnx.Variable) else value


def _is_among(value: Any, consts: Sequence[Any]) -> bool:
    return any(_equal(value, const) for const in consts)


def _equal(one: Any, two: Any) -> bool:
    if one is two:
        return True
    if np.shape(one) != np.shape(two) or jax.dtypes.canonicalize_dtype(one.dtype) != two.dtype:
        return False
    return bool(np.array_equal(np.asarray(one), np.asarray(two)))
