"""mode: with the host's own evaluation switch, no wrapped layer in it draws or updates as in training.

A host's switch is an argument of its call, or a field, by what it does: it has a known name, or its other value takes
draws or updates away. What a layer does only in training is told by tracing too: a dropout that drops, a batch norm
that counts, and any draw or update that a truth value of the layer can stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.arrays import trees
from runner.bridge import captured
from runner.bridge.captured import Captured, Traced
from runner.bridge.host_switches import Switch, others, set_in
from runner.checks import verdicts
from runner.checks.probes import modes
from runner.checks.probes.modes import DRAWS, Modes
from runner.checks.probes.subject import Subject
from runner.errors import listed
from runner.records.record import Check

NAME = "mode"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The host with some switches set.

    Attributes:
      switches: What is set.
      traced: Its apply.
    """

    switches: tuple[Switch, ...]
    traced: Traced


def check(subject: Subject, *, full: bool) -> Check:
    """Whether the host's own switch reaches every wrapped layer in it; only traces."""
    candidates = others(subject.model) if subject.layer_calls else []
    if not candidates:
        return verdicts.passed(NAME, "no host here has a switch of its own")
    now = _trace(subject, ())
    training = _training(now.traced.calls)
    if not training:
        return verdicts.passed(NAME, "as it is called, no wrapped layer draws or updates as in training")
    # A field of any name may build another host: it counts only where nothing is more likely to be the switch.
    likely = [one for one in candidates if one.known or one.argument]
    switches = [one for one in likely if _is_switch(subject, one, now)]
    if not switches:
        switches = [one for one in candidates if one not in likely and _is_switch(subject, one, now)]
    if not switches:
        return verdicts.passed(NAME, "the host has no switch of its own")
    evaluating = [one for one in switches if not one.is_set]
    setting = _trace(subject, tuple(evaluating)) if evaluating else now
    said = ", ".join(f"{one.name}={one.value}" for one in switches)
    left = {path: does for path, does in _training(setting.traced.calls).items() if path in training}
    if not left:
        return verdicts.passed(NAME, f"with {said} no wrapped layer draws or updates as in training")
    return _fail(subject, said, left, setting, sure=any(one.known or one.argument for one in switches))


def _fail(subject: Subject, said: str, left: Mapping[str, Sequence[str]], setting: Setting, *, sure: bool) -> Check:
    words = listed([f"{path or 'the layer'} ({', '.join(does)})" for path, does in left.items()], 3)
    detail = f"with {said}, apply still trains {words}: what the host sets does not reach it"
    lines = []
    for call in {call.path: call for call in setting.traced.calls if call.path in left}.values():
        lines += _fix(call)
    fix = "\n".join(dict.fromkeys(lines)) or None
    evidence = {"still": {path: list(does) for path, does in left.items()}}
    if sure:
        return verdicts.fail(NAME, detail, fix, **evidence)
    return verdicts.warn(NAME, f"{detail}, right only if that is no evaluation", fix, **evidence)


def _fix(call: Captured) -> Iterator[str]:
    """What the host can give the layer so that it is at rest, as far as tracing finds it."""
    tried = Modes(call)
    for name in tried.arguments():
        for value in (True, False):
            try:
                at_rest = not _does(call, {name: value})
            except Exception:  # noqa: BLE001 - it takes no truth value
                at_rest = False
            if at_rest:
                yield f"layer(x, {name}={value})  # in the host, where it evaluates: {call.path or 'the layer'}"
                return


def _is_switch(subject: Subject, one: Switch, now: Setting) -> bool:
    """Whether `one` has a known name, or takes draws or updates of the host away."""
    if one.is_set:
        return True
    try:
        other = _trace(subject, (one,)).traced
    except Exception:  # noqa: BLE001 - with that value the host is another one, of other variables
        return False
    if one.known:
        return True
    fewer = other.num_draws <= now.traced.num_draws and other.changed <= now.traced.changed
    return fewer and (other.num_draws, other.changed) != (now.traced.num_draws, now.traced.changed)


def _trace(subject: Subject, switches: Sequence[Switch]) -> Setting:
    model = set_in(subject.model, switches)
    variables, x = subject.needs.variables, trees.shapes(subject.x)
    return Setting(
        switches=tuple(switches),
        traced=captured.applied(model, subject.needs.streams, x, variables),
    )


def _training(calls: Sequence[Captured]) -> dict[str, list[str]]:
    """What each wrapped layer does that only training should, by its path."""
    found: dict[str, list[str]] = {}
    known: dict[str, list[str]] = {}
    for call in {call.path: call for call in calls}.values():
        key = repr((call.layer, call.args, call.kwargs, call.method))
        if key not in known:
            known[key] = _does(call)
        if known[key]:
            found[call.path] = known[key]
    return found


def _does(call: Captured, given: Mapping[str, Any] | None = None) -> list[str]:
    tried, given = Modes(call), given or {}
    paths = tried.training(tried.switches(), **given)
    owners = ["/".join(map(str, path[:-1])) for path in paths]
    said = [_words(owner, path[-1]) for owner, path in zip(owners, paths, strict=True)]
    if not modes.flags(call.module) and not tried.arguments():
        return said
    effects = _unexplained(tried.effects(**given), owners, bool(said))
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
