"""lifts: the module works under Linen's transforms and uses: jit, grad, vmap, a name, remat, scan.

Each lift runs on the variables of the plain call and is compared with it; rounding differences don't count. A host that
calls one wrapped layer twice fails: init draws the layer's params at each call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from runner.arrays import trees
from runner.bridge import lifts
from runner.bridge.tracing import hosted
from runner.checks.probes.lifted import (
    NUM,
    REMAT,
    SURE,
    Call,
    Lift,
    lifts_of,
    plain_call,
    two_inputs,
)
from runner.checks.probes.subject import Subject
from runner.checks.programs import flow, hlo
from runner.checks.results import rounding, verdicts
from runner.records.record import Check

WORKS = "works"
NOT_ASKED = "not asked: "

ONE_CALL = """\
class Twice(nnx.Module):  # both calls inside one wrapped module
    def __init__(self, *, rngs):
        self.layer = make_layer(rngs=rngs)
    def __call__(self, x):
        return self.layer(x), self.layer(x)
layer = bridge.to_linen(Twice)"""


def check(subject: Subject, *, full: bool) -> Check:
    """Whether the layer works under each lift separately, and whether the subject's init and apply agree."""
    plain = plain_call(subject)
    lifted, asked_not = lifts_of(subject, plain)
    arguments = trees.unbox(subject.init_variables), subject.key, subject.x
    found = {name: _untraceable(lift, subject) for name, lift in lifted.items()}
    pairs: dict[str, tuple[Call, Call]] = {
        name: (lift.run, lift.wanted)
        for name, lift in lifted.items()
        if not found[name] and not (lift.alike and _is_one_program(lift, arguments))
    }
    if len(subject.needs.streams) > 1:
        pairs["random"] = (plain, lambda variables, key, x: plain(variables, jax.random.fold_in(key, 1), x))
    got = _run(pairs, arguments)
    random = "random" in got and bool(_problem(got["random"]))
    for name in pairs.keys() & lifted.keys():
        found[name] = _problem(got[name], shapes_only=lifted[name].drawn and random)
    found = {name: text or WORKS for name, text in found.items()}
    found |= {name: NOT_ASKED + why for name, why in asked_not.items()}
    if again := _drawn_again(subject):
        return _called_twice(again, found)
    bad = {name: text for name, text in found.items() if not text.startswith((WORKS, NOT_ASKED))}
    detail = "; ".join([_listed(found), *(f"{name}: {text}" for name, text in bad.items())])
    if not bad:
        return verdicts.passed("lifts", detail, **found)
    verdict = verdicts.fail if any(name in bad for name in SURE) else verdicts.warn
    return verdict("lifts", detail, _fix(subject, bad), **found)


def _is_one_program(lift: Lift, arguments: Any) -> bool:
    """Whether both calls of `lift` trace to the same program, however XLA compiles it."""
    run, wanted = (hlo.before_xla(jax.jit(call).trace(*arguments)) for call in (lift.run, lift.wanted))
    return run == wanted


def _drawn_again(subject: Subject) -> dict[str, int]:
    """The wrapped layers in a host whose params init draws more than once, with the number of calls."""
    if lifts.is_wrapped(subject.model):
        return {}
    again = hosted.twice(hosted.calls(subject.model, subject.needs.streams, subject.x, read=flow.read))
    return {path: num for path, num in again.items() if _is_drawn(subject, path)}


def _is_drawn(subject: Subject, path: str) -> bool:
    """Whether the params under `path` depend on the key; constants are the same at every call."""
    leaves = trees.flatten(trees.unbox(subject.needs.variables))
    under = [f"{trees.spell(leaf[1:])}/".startswith(f"{path}/") for leaf, _ in leaves]
    return flow.read(subject.initialised, under)[0]


def _called_twice(again: Mapping[str, int], found: Mapping[str, str]) -> Check:
    named = ", ".join(f"{path} is called {num} times in one host" for path, num in again.items())
    detail = f"{named}: init draws its params at each call and keeps the last, so init's output is not apply's"
    return verdicts.fail("lifts", detail, ONE_CALL, **found)


def _listed(found: Mapping[str, str]) -> str:
    good = [name for name, text in found.items() if text.startswith(WORKS)]
    left = [
        f"{name} not asked ({text.removeprefix(NOT_ASKED)})"
        for name, text in found.items()
        if text.startswith(NOT_ASKED)
    ]
    return "; ".join([f"works under {', '.join(good) or 'nothing'}", *left])


def _fix(subject: Subject, bad: Mapping[str, str]) -> str | None:
    if REMAT in bad and subject.model.call:
        call = ", ".join(f"{key}={value!r}" for key, value in subject.model.call.items())
        return f"nn.remat(lambda layer, x: layer(x, {call}))(layer, x)"
    return None


def _run(pairs: Mapping[str, tuple[Call, Call]], arguments: Any) -> dict[str, Any]:
    """The results of both calls of every pair as named arrays, or the error; compiled together where that works."""
    try:
        run = jax.jit(lambda *args: {name: [call(*args) for call in pair] for name, pair in pairs.items()})
        got = run.lower(*arguments).compile(hlo.RUN_ONCE)(*arguments)
        return {name: [trees.named_arrays(trees.unbox(one)) for one in pair] for name, pair in got.items()}
    except Exception as error:  # noqa: BLE001 - whatever the layer's own code raises
        if len(pairs) == 1:
            return dict.fromkeys(pairs, f"fails: {verdicts.words(error)}")
    return {name: _run({name: pair}, arguments)[name] for name, pair in pairs.items()}


def _problem(got: Any, *, shapes_only: bool = False) -> str:
    """What is wrong with a lift's result; '' if nothing."""
    if isinstance(got, str):
        return got
    if shapes_only:
        got = [{path: np.zeros_like(leaf) for path, leaf in one.items()} for one in got]
    found = rounding.difference(*got)
    return f"{WORKS}, {found}" if rounding.is_rounding(found) else found


def _untraceable(lift: Lift, subject: Subject) -> str:
    """The error raised while tracing, or how the tree differs from the layer's own; '' if neither."""
    # Traced, since some boxes place their array on the current mesh when they are unboxed.
    variables = jax.eval_shape(trees.unbox, subject.needs.variables)
    arguments = (variables, *trees.shapes((subject.key, subject.x)))
    try:
        jax.eval_shape(lift.run, *arguments)
        jax.eval_shape(lift.wanted, *arguments)
        host = lift.host
        if host is None:
            return ""
        x = jax.eval_shape(two_inputs, arguments[2]) if lift.many else arguments[2]
        made = jax.eval_shape(lambda key, x: host.init(key, subject.needs.streams, x), arguments[1], x)
        opened = jax.eval_shape(trees.unbox, made)
    except Exception as error:  # noqa: BLE001 - whatever the layer's own code raises
        return f"fails: {verdicts.words(error)}"
    got = _tree({collection: tree.get(lifts.NAME, {}) for collection, tree in opened.items()}, ())
    wanted = _tree(arguments[0], lift.stacked)
    changed = sorted(path for path in got | wanted if got.get(path) != wanted.get(path))
    return f"changes the tree: {', '.join(changed)}" if changed else ""


def _tree(variables: Any, stacked: tuple[str, ...]) -> dict[str, Any]:
    """Shape and dtype of every leaf by path, with a leading axis in the stacked collections."""
    found = {}
    for path, leaf in trees.flatten(variables):
        axes = (NUM,) if path[0] in stacked else ()
        found["/".join(map(str, path))] = ((*axes, *leaf.shape), leaf.dtype)
    return found
