"""What a pipeline's own wrapper does with the state that it stores; a part of the checks `complete` and `mutable`.

The bridge's `ToLinen` reads and writes each collection of its layer. Another wrapper may store a variable under a name
of its own; then what counts is whether apply reads it, and gives back what the call changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from runner.arrays import trees
from runner.bridge import rngs
from runner.bridge.tracing import jaxprs, own_wrappers
from runner.bridge.tracing.captured import Captured
from runner.checks.probes import own_state
from runner.checks.probes.own_state import Flow
from runner.checks.probes.subject import Subject
from runner.checks.programs import flow
from runner.checks.results import verdicts
from runner.errors import listed
from runner.records.record import Check

Place = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A variable that init returns.

    Attributes:
      place: Its path in the variables.
      kind: The collection that NNX has for its type; None for a bare array.
      array: Its shape and dtype.
    """

    place: Place
    kind: str | None
    array: tuple[Any, Any]


@dataclass(frozen=True, kw_only=True)
class _Applied:
    """What the host's apply does with its variables.

    Attributes:
      stored: All of them.
      read: Those that the output, or an update, depends on.
      changed: Those that it changes.
    """

    stored: Sequence[Stored]
    read: frozenset[Place]
    changed: frozenset[Place]


def stored(variables: Any) -> list[Stored]:
    """Every variable that init returns."""
    # A pipeline's own wrapper may store the nnx.Variables themselves, as Kauldron's does.
    return [
        Stored(
            place=tuple(map(str, path)),
            kind=own_state.collection_of(leaf) if isinstance(leaf, nnx.Variable) else None,
            array=(leaf.shape, leaf.dtype),
        )
        for path, leaf in trees.flatten(trees.unbox(variables), whole=nnx.Variable)
    ]


def places(call: Captured, path: Sequence[Any], leaf: Any, among: Sequence[Stored]) -> list[Place]:
    """Where a variable of a wrapped layer lies among those that init returns; none where it is not kept.

    A wrapper of the bridge's keeps it in the collection of its type, in the layer's place or in another, as under
    `nn.share_scope`. What is no weight may lie in another collection, or under another name, for an own wrapper.
    """
    kind, name = own_state.collection_of(leaf), tuple(map(str, path))
    named = [one for one in among if one.place[len(one.place) - len(name) :] == name]
    found = [one.place for one in named if (one.kind or one.place[0]) == kind]
    if found or kind == rngs.PARAMS or not own_wrappers.is_own(call.layer):
        return found
    others = [one for one in among if one.kind is None and one.place[0] != rngs.PARAMS]
    inside = [one for one in others if not call.path or f"/{call.path}/" in f"/{trees.spell(one.place)}/"]
    alike = [one for one in inside if _is_alike(one, leaf, stacked=call.lifted)]
    return [one.place for one in others if one in named] or [one.place for one in alike]


def _is_alike(one: Stored, leaf: Any, *, stacked: bool) -> bool:
    """Whether `one` may be that leaf by its shape and dtype; inside a lift it may have an axis more."""
    shape, dtype = one.array
    inner = [shape[:axis] + shape[axis + 1 :] for axis in range(len(shape))] if stacked else []
    return dtype == leaf.dtype and leaf.shape in (shape, *inner)


def calls(subject: Subject) -> Sequence[Captured]:
    """The calls of wrapped layers in a host, and of a layer alone whose wrapper is a pipeline's own."""
    if subject.layer_calls or not own_wrappers.is_own(subject.model.model):
        return subject.layer_calls
    return subject.host_apply.calls


def unread(subject: Subject, check: str) -> Check | None:
    """The fail for state that is stored, and that apply makes again where the layer would read it."""
    found = _where(subject, lambda own, mine, done: own.read and not (mine & done.read or _is_left(own, mine, done)))
    if not found:
        return None
    detail = (
        f"{_words(found)} lies in the variables, and apply does not read it: it is made again, so no update or "
        "restored value counts"
    )
    return verdicts.fail(check, detail, unkept=_paths(found))


def unwritten(subject: Subject, check: str) -> Check | None:
    """The fail for state that is stored, and that apply leaves as it was where the layer changes it."""
    found = _where(subject, _is_left)
    if not found:
        return None
    detail = f"the call changes {_words(found)}, and apply gives back the old value: the update is dropped"
    return verdicts.fail(check, detail, dropped=_paths(found))


def _is_left(own: Flow, mine: set[Place], done: _Applied) -> bool:
    """Whether the layer changes it, and apply does not."""
    return own.changed and not mine & done.changed


Found = Mapping[str, Sequence[tuple[str, tuple[Any, ...]]]]


def _words(found: Found) -> str:
    """`batch_stats of block (norm/mean, norm/var)`."""
    parts = []
    for layer, leaves in found.items():
        for kind in dict.fromkeys(kind for kind, _ in leaves):
            mine = [trees.spell(path) for one, path in leaves if one == kind]
            parts.append(f"{kind} of {layer or 'the layer'} ({listed(mine, 4)})")
    return listed(parts, 3)


def _paths(found: Found) -> list[str]:
    named = [(kind, [layer] if layer else [], path) for layer, leaves in found.items() for kind, path in leaves]
    return [trees.spell([kind, *inside, *path]) for kind, inside, path in named]


def _where(subject: Subject, is_lost: Callable[[Flow, set[Place], _Applied], bool]) -> Found:
    """By layer, the kind and path of each variable that `is_lost` says is, of those that are stored."""
    if not any(own_wrappers.is_own(call.layer) for call in calls(subject)):
        return {}
    done = _applied(subject)
    found: dict[str, list[tuple[str, tuple[Any, ...]]]] = {}
    for layer, call in {call.path: call for call in subject.host_apply.calls}.items():
        for own in own_state.flows_of(call) if own_wrappers.is_own(call.layer) else ():
            mine = _under(layer, places(call, own.path, own.variable, done.stored))
            if mine and own.collection != rngs.PARAMS and is_lost(own, mine, done):
                found.setdefault(layer, []).append((own.collection, own.path))
    return found


def _under(layer: str, found: Sequence[Place]) -> set[Place]:
    return {place for place in found if f"/{layer}/" in f"/{trees.spell(place)}/"} or set(found)


def _applied(subject: Subject) -> _Applied:
    variables, needs = subject.needs.variables, subject.needs
    known = stored(variables)
    if len(jax.tree.leaves(variables)) != len(known):
        return _Applied(stored=(), read=frozenset(), changed=frozenset())
    returned: list[Place] = []

    def run(variables: Any, key: Any, x: Any) -> Any:
        keys = rngs.apply_keys(key, needs.streams)
        model = subject.model
        output, updates = model.model.apply(variables, x, rngs=keys, mutable=True, **model.call)
        returned[:] = [tuple(map(str, path)) for path, _ in trees.flatten(updates, whole=nnx.Variable)]
        return updates, output

    key = jax.ShapeDtypeStruct(subject.key.shape, subject.key.dtype)
    closed = jax.make_jaxpr(run)(variables, key, trees.shapes(subject.x))
    moved = jaxprs.changed(closed, range(len(returned)))
    more = [True] * (len(closed.jaxpr.outvars) - len(returned))
    read = flow.read(closed, [*moved, *more])[: len(known)]
    return _Applied(
        stored=known,
        read=frozenset(one.place for one, is_read in zip(known, read, strict=True) if is_read),
        changed=frozenset(place for place, one in zip(returned, moved, strict=True) if one),
    )
