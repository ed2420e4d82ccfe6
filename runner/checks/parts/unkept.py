"""Collections of a wrapped layer that the host around it doesn't keep; a part of the checks `complete` and `mutable`.

A lift carries the collections that it lists. Linen raises where a layer wants another one; a wrapped layer makes what
it lacks, at every apply, and what it changes there is dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.arrays import trees
from runner.bridge import rngs
from runner.bridge.tracing import captured, host_lifts, own_wrappers
from runner.bridge.tracing.host_lifts import Change, HostLift
from runner.checks.parts import own_storage
from runner.checks.probes import carried, own_state
from runner.checks.probes.subject import Subject
from runner.checks.results import verdicts
from runner.errors import listed
from runner.records.record import Check


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What a host does not keep of one layer in one collection.

    Attributes:
      layer: The layer's path in the host.
      collection: The collection.
      leaves: Its variables there, by their paths in the layer.
      constant: Whether every apply makes all of them as they are.
      changed: Whether the call changes one.
      changing: Whether this or another call may: statistics and caches are changed in training.
      lifts: The lifts that leave the collection out, from the outermost in; empty if it is none.
    """

    layer: str
    collection: str
    leaves: tuple[tuple[Any, ...], ...]
    constant: bool
    changed: bool
    changing: bool
    lifts: tuple[HostLift, ...] = ()

    @property
    def words(self) -> str:
        """`batch_stats of blocks/layer (norm/mean, norm/var)`."""
        leaves = ["/".join(map(str, path)) for path in self.leaves]
        return f"{self.collection} of {self.layer or 'the layer'} ({listed(leaves, 4)})"

    @property
    def paths(self) -> list[str]:
        """The leaves as paths in the variables."""
        place = [self.collection, *([self.layer] if self.layer else [])]
        return ["/".join([*place, *map(str, path)]) for path in self.leaves]


def of_host(subject: Subject) -> list[Lost]:
    """What the host's init does not return of what its wrapped layers make there."""
    kept = own_storage.stored(subject.needs.variables)
    found: list[Lost] = []
    for name, call in {call.path: call for call in own_storage.calls(subject)}.items():
        lost = [
            (own_state.collection_of(leaf), path)
            for path, leaf in own_state.kept(call.module)
            if not own_storage.places(call, path, leaf, kept)
        ]
        if lost:
            found += _by_collection(
                name, [one for one in own_state.leaves_of(call) if (one.collection, one.path) in lost]
            )
    return _explained(subject, found, None) if found else []


def dropped(subject: Subject) -> list[Lost]:
    """What init keeps, and a lift in the host does not hand on where apply changes it."""
    # Params that a call changes are another matter: see `written`.
    made = [name for call in subject.layer_calls for name, _ in own_state.names_of(call) if name != rngs.PARAMS]
    calls = subject.host_apply.calls if made else []
    found: list[Lost] = []
    for name, call in {call.path: call for call in calls if call.lifted}.items():
        # What another wrapper stores may lie in another collection: see own_storage.unwritten.
        if own_wrappers.is_own(call.layer) or all(call.keeps(kind) for kind, _ in own_state.names_of(call)):
            continue
        leaves = own_state.leaves_of(call)
        found += _by_collection(name, [one for one in leaves if one.changed and not call.keeps(one.collection)])
    return _explained(subject, found, subject.needs.variables) if found else []


def found(check: str, lost: Sequence[Lost], subject: Subject) -> Check:
    """What `check` says of them: a fail, or a warn where they are constants."""
    who = [one for one in lost if not one.constant] or list(lost)
    names = [path for one in who for path in one.paths]
    it = "it" if len(names) == 1 else "them"
    words = "; ".join(f"{_lifts(mine)} {listed([one.words for one in mine], 3)}" for mine in _grouped(who))
    if who[0].constant:
        detail = f"{words}: every apply makes {it} again, right only where no call and no checkpoint changes {it}"
        return verdicts.warn(check, detail, _fix(subject, who), unkept=names)
    detail = f"{words}: every apply makes {it} again, so no update or restored value counts"
    return verdicts.fail(check, detail, _fix(subject, who), unkept=names)


def fail_updates(check: str, lost: Sequence[Lost]) -> Check:
    """The fail of `check` for changes of what the host does not keep; `complete` says what fixes it."""
    names = [path for one in lost for path in one.paths]
    words = listed([one.words for one in lost], 3)
    detail = f"the call changes {words}, which the host does not keep (see complete): the update is dropped"
    return verdicts.fail(check, detail, dropped=names)


def fail_dropped(check: str, lost: Sequence[Lost], subject: Subject) -> Check:
    """The fail of `check` for updates that a lift drops."""
    words = "; ".join(f"{_lifts(mine)} {listed([one.words for one in mine], 3)}" for mine in _grouped(lost))
    names = [path for one in lost for path in one.paths]
    detail = f"{words} out of apply: what the call changes there is dropped without a word"
    return verdicts.fail(check, detail, _fix(subject, lost), dropped=names)


def _by_collection(name: str, leaves: Sequence[own_state.Leaf]) -> Iterator[Lost]:
    for collection in dict.fromkeys(leaf.collection for leaf in leaves):
        mine = [leaf for leaf in leaves if leaf.collection == collection]
        yield Lost(
            layer=name,
            collection=collection,
            leaves=tuple(leaf.path for leaf in mine),
            constant=all(leaf.is_constant for leaf in mine),
            changed=any(leaf.changed for leaf in mine),
            changing=any(leaf.changed or leaf.filled for leaf in mine),
        )


def _explained(subject: Subject, found: Sequence[Lost], variables: Any) -> list[Lost]:
    """The same with the lifts that leave them out; these are seen in a second trace of the host."""
    with host_lifts.watching():
        calls = captured.calls(subject.model, subject.needs.streams, trees.shapes(subject.x), variables=variables)
    around = {call.path: call.lifts for call in calls}
    return [_with_lifts(one, around.get(one.layer, ())) for one in found]


def _with_lifts(one: Lost, lifts: Sequence[HostLift]) -> Lost:
    losing = {(lift.kind, lift.place): lift for lift in lifts if not lift.carries(one.collection)}
    return dataclasses.replace(one, lifts=tuple(losing.values()))


def _grouped(lost: Sequence[Lost]) -> list[list[Lost]]:
    groups: dict[tuple[Any, ...], list[Lost]] = {}
    for one in lost:
        groups.setdefault(tuple((lift.kind, lift.place) for lift in one.lifts), []).append(one)
    return list(groups.values())


def _lifts(lost: Sequence[Lost]) -> str:
    lifts = lost[0].lifts
    if not lifts:
        return "the host does not keep"
    named = " and ".join(f"nn.{lift.kind} ({lift.place})" for lift in lifts)
    return f"the host's {named} {'does' if len(lifts) == 1 else 'do'} not carry"


def _fix(subject: Subject, lost: Sequence[Lost]) -> str | None:
    losing: dict[tuple[str, str], tuple[HostLift, set[str]]] = {}
    for one in lost:
        for lift in one.lifts:
            losing.setdefault((lift.kind, lift.place), (lift, set()))[1].add(one.collection)
    if not losing:
        return None
    changed = {one.collection for one in lost if one.changing}
    changes = carried.find(subject, list(losing.values()), changed)
    if changes is None:
        where = [
            f"nn.{lift.kind} at {lift.place} leaves out {listed(sorted(names))}" for lift, names in losing.values()
        ]
        return f"# {'; '.join(where)}: no other arguments were found to keep that"
    return "\n".join(_line(change) for change in changes)


def _line(change: Change) -> str:
    arguments = ", ".join(f"{name}={_code(value)}" for name, value in change.arguments.items())
    return f"{arguments}  # of nn.{change.kind} at {change.place}: traced with it, nothing is lost"


def _code(value: Any) -> str:
    return repr(dict(value)) if isinstance(value, Mapping) else repr(value)
