"""What the check `traps` says of a wrapped layer's mode: what an evaluation has to switch, and whether something can.

Each argument of the call counts by what it reaches: one that stops the dropout and leaves the batch norm counting makes
an evaluation that is silently wrong, whatever its name.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flax import nnx

from runner.bridge.tracing import captured, own_wrappers
from runner.bridge.tracing.captured import Captured
from runner.bridge.tracing.own_wrappers import SWITCHES
from runner.checks.parts import own_storage
from runner.checks.probes import as_code, modes, unwrapped
from runner.checks.probes.modes import Modes, Path
from runner.checks.probes.subject import Subject
from runner.checks.results.verdicts import fail, passed, warn
from runner.records.record import Check, Verdict

NAME = "traps"

# Arguments that are known to set the mode, though they may take no truth value.
SWITCHING_ARGUMENTS = (*SWITCHES, "train", "training", "is_training", "inference", "update_stats")

WORST = (Verdict.fail, Verdict.warn, Verdict.passed)


def check(subject: Subject) -> Check:
    """Whether arguments, or else a factory, control what `.train()` and `.eval()` set, in each wrapped layer."""
    calls = _as_applied(subject) or _alone(subject)
    found: list[Check] = []
    for paths, call in _distinct(calls):
        one = _of(call)
        if one.verdict is not Verdict.passed and subject.layer_calls:
            one = dataclasses.replace(one, detail=f"{paths[0] or 'the layer'}: {one.detail}")
        found.append(one)
    return min(found, key=lambda one: WORST.index(one.verdict), default=passed(NAME, ""))


def _as_applied(subject: Subject) -> Sequence[Captured]:
    """The calls in init; where a pipeline's own wrapper may set the mode, those in apply."""
    is_own = any(own_wrappers.is_own(call.layer) for call in own_storage.calls(subject))
    return subject.host_apply.calls if is_own else subject.layer_calls


def _alone(subject: Subject) -> list[Captured]:
    layer = subject.layer or subject.model
    if not hasattr(layer.model, "nnx_class"):
        return []
    return captured.calls(layer, subject.needs.streams, subject.x)


def _distinct(calls: Sequence[Captured]) -> list[tuple[list[str], Captured]]:
    """The calls, those of equal layers with equal inputs once."""
    groups: dict[str, tuple[list[str], Captured]] = {}
    for call in {call.path: call for call in calls}.values():
        groups.setdefault(call.kind, ([], call))[0].append(call.path)
    return list(groups.values())


def _of(call: Captured) -> Check:
    tried = Modes(call)
    found = tried.switches()
    inside = {"modules_inside": sum(1 for _ in nnx.iter_modules(call.module)) - 1}
    if not found:
        return passed(NAME, "", **inside)
    reach = _reached_by_call(found, tried)
    reached = set().union(*reach.values()) | _reached_by_constructor(call, found)
    reached |= {path for path in found if path[-1] in call.set_by_wrapper}
    left = {path: value for path, value in found.items() if path not in reached}
    if not left:
        return passed(NAME, "train and eval within reach", **inside)
    switched = {path: value for path, value in left.items() if tried.is_switched_by(path)}
    if half := _half(left, reach, tried, inside):
        return half
    stuck = [path for path in left if path not in switched and tried.is_training(path)]
    if stuck:
        return _stuck(call, stuck, tried, inside)
    if not switched:  # such a one is not called, or never in training mode
        return passed(NAME, "", **inside)
    method = "train" if all(switched.values()) else "eval"
    names = _dotted(switched)
    detail = (
        f"no argument of the call or the constructor reaches {', '.join(names)}, and .{method}() changes nothing: it "
        f"takes a factory that sets {'it' if len(names) == 1 else 'them'}"
    )
    kinds = ", ".join(f"{name}=evaluate" for name in SWITCHES if any(path[-1] == name for path in switched))
    fix = (
        "def make_layer(*, evaluate, rngs):\n"
        f"    layer = {as_code.call_of(call.layer)}\n"
        f"    layer.set_attributes({kinds})\n"
        "    return layer\n"
        "train, test = (ToLinen(make_layer, kwargs=FrozenDict(evaluate=mode)) for mode in (False, True))"
    )
    return warn(NAME, detail, fix, unreached=names, **inside)


def _half(
    left: Iterable[Path], reach: Mapping[str, set[Path]], tried: Modes, inside: Mapping[str, Any]
) -> Check | None:
    """The fail for an argument of the call that stops some, and leaves others in training mode."""
    for name, paths in reach.items():
        known = [path for path in paths if tried.is_known(path)]
        stopping = [value for value in (True, False) if known and not tried.training(known, **{name: value})]
        for value in stopping:
            still = tried.training(left, **{name: value})
            if still:
                owners, others = _owners(still), ", ".join(_owners(known))
                detail = (
                    f"{name}={value} of the call stops {others}, and {', '.join(owners)} still "
                    f"{'trains' if len(owners) == 1 else 'train'}: an evaluation by it is silently wrong"
                )
                lines = [
                    f"self.{owner}(…, {path[-1]}={name if value else f'not {name}'})  # in the call"
                    for owner, path in zip(owners, still, strict=True)
                ]
                return fail(NAME, detail, "\n".join(lines), unreached=_dotted(still), **inside)
    return None


def _stuck(call: Captured, stuck: Sequence[Path], tried: Modes, inside: Mapping[str, Any]) -> Check:
    """What is said of dropouts and batch norms that stay in training mode whatever is set."""
    names, owners = _dotted(stuck), _owners(stuck)
    rates = [name for name in _constructor_arguments(call) if re.search(r"rate|drop|prob|^p$", name)]
    stop = [name for name in rates if tried.is_stopped_by(name, stuck)]
    if stop and all(path[-1] == "deterministic" for path in stuck):
        detail = f"{', '.join(owners)} drops in every call: an evaluation needs a layer of its own, with {stop[0]}=0"
        return warn(NAME, detail, f"test = layer.clone(kwargs={{**layer.kwargs, {stop[0]!r}: 0.0}})", **inside)
    detail = (
        f"{', '.join(owners)} is in training mode in every call, and nothing switches it: no argument of the call or "
        f"the constructor, and no factory that sets {', '.join(names)}"
    )
    lines = [f"self.{owner}(x)  # in the call, without {path[-1]}" for owner, path in zip(owners, stuck, strict=True)]
    return fail(NAME, detail, "\n".join(lines), unreached=names, **inside)


def _owners(paths: Iterable[Path]) -> list[str]:
    return [".".join(map(str, path[:-1])) or "the layer" for path in paths]


def _dotted(paths: Iterable[Path]) -> list[str]:
    return [".".join(map(str, path)) for path in paths]


def _reached_by_call(switches: Mapping[Path, Any], tried: Modes) -> dict[str, set[Path]]:
    """What each argument of the call reaches."""
    return {name: paths for name in tried.arguments() if (paths := _reached_by(name, switches, tried))}


def _reached_by(name: str, switches: Mapping[Path, Any], tried: Modes) -> set[Path]:
    known = [path for path in switches if tried.is_known(path)]
    try:
        if not tried.differs_by(name):
            return set()
        on, off = (set(tried.training(known, **{name: value})) for value in (True, False))
    except Exception:  # noqa: BLE001 - it takes no truth value: a known one is there to be set
        return set(switches) if name in SWITCHING_ARGUMENTS else set()
    # Of modules of one's own, tracing can't say which of them differs.
    return (on ^ off) | {path for path in switches if path not in known}


def _reached_by_constructor(call: Captured, switches: Mapping[Path, Any]) -> set[Path]:
    construct = unwrapped.constructor(call.layer)
    assert construct is not None
    reached: set[Path] = set()
    for name, one in _constructor_arguments(call).items():
        if name not in SWITCHING_ARGUMENTS and not isinstance(call.layer.kwargs.get(name, one.default), bool):
            continue
        try:
            on, off = (
                modes.switches(nnx.eval_shape(functools.partial(construct, {name: value}))) for value in (True, False)
            )
        except Exception:  # noqa: BLE001 - it was given by position, or takes no boolean: then it is there to be set
            if name in SWITCHING_ARGUMENTS:
                return set(switches)
            continue
        reached |= {path for path in switches if on.get(path) != off.get(path)}
    return reached


def _constructor_arguments(call: Captured) -> dict[str, Any]:
    return as_code.parameters(as_code.constructor(call.layer.nnx_class))
