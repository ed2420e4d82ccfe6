"""mode: with the host's own evaluation switch, no wrapped layer in it draws or updates as in training.

A host's switch is an argument of its call, or a field, by what it does: it has a known name, or its other value takes
draws or updates away. What a layer does only in training is told by tracing too: a dropout that drops, a batch norm
that counts, and any draw or update that a truth value of the layer can stop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flax import nnx

from runner.arrays import trees
from runner.bridge.tracing import captured
from runner.bridge.tracing.captured import Captured, Traced
from runner.bridge.tracing.host_switches import Switch, others, set_in
from runner.checks.probes import as_code, modes
from runner.checks.probes.modes import DRAWS, Modes
from runner.checks.probes.subject import Subject
from runner.checks.results import verdicts
from runner.errors import listed, literal
from runner.records.record import Check, Verdict

NAME = "mode"


def check(subject: Subject, *, full: bool) -> Check:
    """Whether the host's own switch reaches every wrapped layer in it; only traces."""
    candidates = others(subject.model) if any(_may_train(call) for call in subject.layer_calls) else []
    if not candidates:
        return verdicts.passed(NAME, "no host here has a switch of its own")
    host = _Host(subject)
    now = host.applied(())
    if not any(_effects_of(now.calls).values()):
        return verdicts.passed(NAME, "as it is called, no wrapped layer draws or updates as in training")
    switches = host.switches(candidates)
    if not switches:
        return verdicts.passed(NAME, "the host has no switch of its own")
    said = ", ".join(f"{one.name}={one.value}" for one in switches)
    calls = host.applied([one for one in switches if not one.is_set]).calls
    left = {path: does for path, does in _training(calls).items() if does}
    if not left:
        return verdicts.passed(NAME, f"with {said} no wrapped layer draws or updates as in training")
    still = {call.path: call for call in calls if call.path in left}
    found = _still_training(said, left, list(still.values()))
    if not any(one.known or one.argument for one in switches):
        return dataclasses.replace(found, verdict=Verdict.warn, detail=f"{found.detail}, if that is an evaluation")
    if subject.layer is not None and not any(one.argument or one.is_set for one in switches):
        # Of a layer from the config, the user sets host.kwargs and the layer's own arguments side by side.
        own = [_own_arguments(call) for call in still.values()]
        if all(own):
            typed = " ".join([*(f"host.kwargs.{one.name}={literal(one.value)}" for one in switches), *map(_typed, own)])
            detail = f"{found.detail}, right where the evaluation sets the layer's own argument too"
            return dataclasses.replace(found, verdict=Verdict.warn, detail=detail, fix=typed)
    return found


class _Host:
    """A host's apply under one setting or another; each is traced once."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._known: dict[tuple[Switch, ...], Traced] = {(): subject.host_apply}

    def applied(self, switches: Sequence[Switch]) -> Traced:
        """Its apply with the switches set."""
        key, needs = tuple(switches), self._subject.needs
        if key not in self._known:
            model, x = set_in(self._subject.model, key), trees.shapes(self._subject.x)
            self._known[key] = captured.applied(model, needs.streams, x, needs.variables)
        return self._known[key]

    def switches(self, candidates: Sequence[Switch]) -> list[Switch]:
        """Those that choose the mode."""
        # A field of any name may build another host: it counts only where nothing is more likely to be the switch.
        likely = [one for one in candidates if one.known or one.argument]
        found = [one for one in likely if self._is_switch(one)]
        return found or [one for one in candidates if one not in likely and self._is_switch(one)]

    def _is_switch(self, one: Switch) -> bool:
        """Whether `one` has a known name, or takes draws or updates of the host away."""
        if one.is_set:
            return True
        try:
            now, other = self.applied(()), self.applied([one])
        except Exception:  # noqa: BLE001 - with that value the host is another one, of other variables
            return False
        return one.known or _is_quieter(other, now)


def _is_quieter(other: Traced, now: Traced) -> bool:
    """Whether a host under another setting draws or updates less than now: by itself, or by what it gives a layer."""
    if other.num_draws > now.num_draws or not other.changed <= now.changed:
        return False
    layers = [f"/{call.path}/" for call in now.calls]
    own = [path for path in now.changed - other.changed if not any(layer in f"/{path}/" for layer in layers)]
    gives_other = [call.kind for call in now.calls] != [call.kind for call in other.calls]
    return other.num_draws < now.num_draws or bool(own) or (gives_other and other.changed != now.changed)


def _still_training(said: str, left: Mapping[str, Sequence[str]], calls: Sequence[Captured]) -> Check:
    words = listed([f"{path or 'the layer'} ({', '.join(does)})" for path, does in left.items()], 3)
    detail = f"with {said}, apply still trains {words}: what the host sets does not reach it"
    lines = [f"{_given(own)}  # in the host, where it evaluates" for call in calls if (own := _own_arguments(call))]
    evidence = {"still": {path: list(does) for path, does in left.items()}}
    return verdicts.fail(NAME, detail, "\n".join(dict.fromkeys(lines)) or None, **evidence)


@dataclass(frozen=True, kw_only=True)
class _Own:
    """An argument of a layer that puts it to rest: of its call, or of its constructor."""

    name: str
    value: bool
    of_call: bool


def _given(own: _Own) -> str:
    return f"layer(x, {own.name}={own.value})" if own.of_call else f"bridge.to_linen(…, {own.name}={own.value})"


def _typed(own: _Own | None) -> str:
    assert own is not None
    return f"layer.{'call' if own.of_call else 'kwargs'}.{own.name}={literal(own.value)}"


def _own_arguments(call: Captured) -> _Own | None:
    """What the host can give the layer so that it is at rest, as far as tracing finds it."""
    values = [(name, value) for name in Modes(call).arguments() for value in (True, False)]
    for name, value in values:
        if _rests(call, {name: value}):
            return _Own(name=name, value=value, of_call=True)
    for name, one in as_code.parameters(as_code.constructor(call.layer.nnx_class)).items():
        now = call.layer.kwargs.get(name, one.default)
        if isinstance(now, bool):
            other = call.layer.clone(kwargs={**call.layer.kwargs, name: not now})
            if _rests(dataclasses.replace(call, layer=other), {}):
                return _Own(name=name, value=not now, of_call=False)
    return None


def _rests(call: Captured, given: Mapping[str, Any]) -> bool:
    try:
        return not _does(call, given)
    except Exception:  # noqa: BLE001 - it takes no truth value there
        return False


def _may_train(call: Captured) -> bool:
    """Whether the layer has anything that a call may draw from or change, besides its weights."""
    state = nnx.to_flat_state(nnx.state(call.module))
    return any(not isinstance(leaf, nnx.Param) for _, leaf in state)


def _distinct(calls: Sequence[Captured]) -> dict[str, tuple[list[str], Captured]]:
    """The last call of each layer, those of equal layers on equal inputs once, each with the layers' paths."""
    found: dict[str, tuple[list[str], Captured]] = {}
    for call in {call.path: call for call in calls}.values():
        found.setdefault(call.kind, ([], call))[0].append(call.path)
    return found


def _effects_of(calls: Sequence[Captured]) -> dict[str, set[str]]:
    """What each wrapped layer does besides its output."""
    return {paths[0]: Modes(call).effects() for paths, call in _distinct(calls).values() if _may_train(call)}


def _training(calls: Sequence[Captured]) -> dict[str, list[str]]:
    """What each wrapped layer does that only training should, by its path."""
    return {
        path: does
        for paths, call in _distinct(calls).values()
        if _may_train(call)
        for does in [_does(call)]
        for path in paths
    }


def _does(call: Captured, given: Mapping[str, Any] | None = None) -> list[str]:
    tried, given = Modes(call), given or {}
    effects = tried.effects(**given)
    if not effects:
        return []
    paths = tried.training(tried.switches(), **given)
    owners = ["/".join(map(str, path[:-1])) for path in paths]
    said = [_words(owner, path[-1]) for owner, path in zip(owners, paths, strict=True)]
    effects = _unexplained(effects, owners, DRAWS in effects and any("drops" in one for one in said))
    return said + [_effect(one) for one in sorted(effects & _stoppable(tried, given, effects))]


def _stoppable(tried: Modes, given: Mapping[str, Any], effects: set[str]) -> set[str]:
    """Those of the effects that another truth value of an attribute, or of an argument of the call, takes away."""
    if not effects:
        return set()
    found: set[str] = set()
    now = tried.call.named
    for path, value in modes.flags(tried.call.module).items():
        found |= effects - _effects(tried, {path: not value}, given, effects)
    for name in tried.arguments():
        default = tried.call.parameters[name].default
        value = given.get(name, now.get(name, default))
        if isinstance(value, bool):
            found |= effects - _effects(tried, {}, {**given, name: not value}, effects)
    return found


def _effects(tried: Modes, changed: Mapping[Any, Any], given: Mapping[str, Any], otherwise: set[str]) -> set[str]:
    try:
        return tried.effects(changed, **given)
    except Exception:  # noqa: BLE001 - the attribute is no switch
        return otherwise


def _unexplained(effects: set[str], owners: Sequence[str], drops: bool) -> set[str]:
    """The effects that are not those of a dropout or batch norm that is known to train."""
    return {
        one
        for one in effects
        if not (one == DRAWS and drops) and not any(one.startswith(f"{owner}/" if owner else "") for owner in owners)
    }


def _words(owner: str, attribute: str) -> str:
    does = "drops" if attribute == "deterministic" else "counts"
    return f"{owner} {does}" if owner else f"it {does}"


def _effect(name: str) -> str:
    return "it draws" if name == DRAWS else f"{name} changes"
