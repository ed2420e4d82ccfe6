"""Other arguments for a host's lifts, with which they carry what they lose: built, traced and looked at."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax.core import scope as linen_scope

from runner.arrays import trees
from runner.bridge import rngs
from runner.bridge.tracing import captured, host_lifts
from runner.bridge.tracing.host_lifts import Change, HostLift
from runner.checks.probes.subject import Subject

# Nested lifts multiply what there is to try.
MAX_TRIED = 12

EVERYTHING = ("remat", "jit", "cond", "switch")


def find(
    subject: Subject, losing: Sequence[tuple[HostLift, Collection[str]]], changed: Collection[str]
) -> list[Change] | None:
    """Changes of the lifts with which init keeps, and apply hands on, all collections; None if none is known.

    Args:
      subject: A host.
      losing: The lifts to change, each with the collections that it loses.
      changed: Those of the collections that apply changes, in training at least.
    """
    each = [
        [Change(kind=one.kind, place=one.place, arguments=other) for other in _others(one, sorted(lost), changed)]
        for one, lost in losing
    ]
    wanted = {name for _, lost in losing for name in lost}
    for changes in itertools.islice(itertools.product(*each), MAX_TRIED):
        if _holds(subject, list(changes), wanted, changed):
            return list(changes)
    return None


def _holds(subject: Subject, changes: Sequence[Change], wanted: Collection[str], changed: Collection[str]) -> bool:
    needs, key = subject.needs, rngs.key_shape()
    model, x = subject.model, trees.shapes(subject.x)

    def apply(variables: Any, key: Any, x: Any) -> Any:
        keys = rngs.apply_keys(key, needs.streams)
        return model.model.apply(variables, x, rngs=keys, mutable=True, **model.call)

    def init(key: Any, x: Any) -> Any:
        return model.init(key, needs.streams, x)

    try:
        with host_lifts.watching(changes):
            variables = jax.eval_shape(init, key, x)
            if not set(variables) >= set(wanted):  # or `nn.jit` remembers what it traced without the changes
                jax.clear_caches()
                variables = jax.eval_shape(init, key, x)
            output, updates = jax.eval_shape(apply, variables, key, x)
            calls = captured.calls(model, needs.streams, x, variables=variables)
    except Exception:  # noqa: BLE001 - what flax says to other arguments
        return False
    kept = set(variables) >= set(wanted) and set(updates) >= set(changed)
    kept = kept and all(call.keeps(name) for call in calls if call.lifted for name in changed)
    return kept and jax.tree.map(_kind, output) == jax.tree.map(_kind, needs.output)


def _kind(leaf: Any) -> Any:
    return getattr(leaf, "shape", None), getattr(leaf, "dtype", None)


def _others(one: HostLift, lost: Sequence[str], changed: Collection[str]) -> Iterator[Mapping[str, Any]]:
    """Arguments of a lift that may carry the collections `lost`, the likeliest first."""
    given = one.arguments
    if one.kind in ("scan", "vmap"):
        yield from _with_axes(given, lost, changed)
    elif one.kind == "map_variables":
        for more in ({}, {"mutable": True}, {"init": True}, {"init": True, "mutable": True}):
            listed = {} if all(_is_in(given["variables"], name) for name in lost) else {"variables": True}
            if more or listed:
                yield {**more, **listed}
    elif one.kind in EVERYTHING and "variables" in given:
        yield {"variables": True}
    elif one.kind == "while_loop" and "carry_variables" in given:
        yield {"carry_variables": list(lost)}


def _with_axes(given: Mapping[str, Any], lost: Sequence[str], changed: Collection[str]) -> Iterator[Mapping[str, Any]]:
    axes = dict(given["variable_axes"])
    own = next((axis for name, axis in axes.items() if _is_in(name, rngs.PARAMS)), None)
    stacked = {"variable_axes": {**axes, **dict.fromkeys(lost, own if isinstance(own, int) else 0)}}
    if isinstance(own, int):
        yield stacked
        return
    if "variable_broadcast" not in given:  # nn.vmap: shared by all, or one for each
        yield {"variable_axes": {**axes, **dict.fromkeys(lost)}}
    else:
        steady, carried = [name for name in lost if name not in changed], [name for name in lost if name in changed]
        shared = {"variable_broadcast": _and(given["variable_broadcast"], steady)} if steady else {}
        if carried:
            yield {**shared, "variable_carry": _and(given["variable_carry"], carried)}
            yield {**shared, "variable_axes": {**axes, **dict.fromkeys(carried, 0)}}
        else:
            yield shared
    yield stacked


def _and(given: Any, more: Sequence[str]) -> Any:
    """The collections of a filter and `more`, as one would write it."""
    named = [] if given is False else [given] if isinstance(given, str) else list(given)
    names = [*named, *more]
    return names[0] if len(names) == 1 else names


def _is_in(given: Any, collection: str) -> bool:
    return bool(linen_scope.in_filter(given, collection))
