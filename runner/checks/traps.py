"""Check 10, traps: what works today but surprises later, in how the module is built, hashed, switched and called.

It also explains a failing init, if a known trap is the cause.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from runner.arrays import trees
from runner.bridge import lifts, rngs
from runner.bridge.wrap import Bridged
from runner.checks.parts import layer_mode
from runner.checks.probes import as_code, unwrapped
from runner.checks.probes.subject import Subject
from runner.checks.results.verdicts import fail, passed, warn, words
from runner.errors import listed
from runner.records.record import Check, Verdict

NAME = "traps"

INTERMEDIATES = "intermediates"

KEPT_BY_TO_LINEN = ("name", "metadata_fn", "skip_rng", "abstract_init")


def check(subject: Subject, *, full: bool) -> Check:
    """Tests for each trap and returns the worst result. Nothing is compiled or computed."""
    layer = subject.layer or subject.model
    found = [_static(subject, layer), layer_mode.check(subject), _kept(layer), _axes(subject), _captured(subject)]
    verdicts = [check.verdict for check in found]
    evidence = {key: value for check in found for key, value in check.evidence.items()}
    sprung = [check for check in found if check.verdict is not Verdict.passed]
    if not sprung:
        return passed(NAME, "no trap: " + ", ".join(check.detail for check in found if check.detail), **evidence)
    say = fail if Verdict.fail in verdicts else warn
    fix = "\n".join(check.fix for check in sprung if check.fix)
    return say(NAME, "; ".join(check.detail for check in sprung), fix or None, **evidence)


def _static(subject: Subject, layer: Bridged) -> Check:
    """Whether the model can be a static argument of jit, and an equal one hits its cache."""
    traced = []

    def call(model: Any, x: Any) -> Any:
        traced.append(model)
        return x

    # The cache uses only the model's hash and equality: what is called inside makes no difference.
    jitted, x = jax.jit(call, static_argnums=0), jax.ShapeDtypeStruct((), np.float32)
    for model in (layer.model, subject.model.model):
        try:
            jitted.eval_shape(model, x)
        except ValueError:
            return _unhashable(model)
    if subject.again is None:
        return _suspects(layer.model)
    traced.clear()
    other = subject.again().model
    jitted.eval_shape(other, x)
    if not traced:
        return passed(NAME, "equal settings are traced once", retraced=False)
    return _retraced(layer.model, other)


def _unhashable(model: Any) -> Check:
    values = {key: value for key, value in _settings(model).items() if not _is_hashable(value)}
    names = ", ".join(f"{key} ({type(value).__name__})" for key, value in values.items()) or "a field"
    detail = f"{names} can't be hashed: as a static argument of jit the model raises ValueError"
    if not hasattr(model, "nnx_class"):  # a host is as its pipeline makes it: EasyLM's config can't be hashed
        return warn(NAME, f"the host's {detail}", None, unhashable=list(values))
    fix = "\n".join(f"{key}={as_code.hashable(value)}" for key, value in values.items())
    return fail(NAME, detail, fix or None, unhashable=list(values))


def _retraced(first: Any, second: Any) -> Check:
    others = _settings(second)
    differing = [key for key, value in _settings(first).items() if others.get(key) != value]
    detail = (
        f"a second model of the same settings is traced again: {', '.join(differing) or 'it'} is made again for each"
    )
    return fail(NAME, detail, _made_once(differing), retraced=True, differing=differing)


def _suspects(model: Any) -> Check:
    made = [key for key, value in _settings(model).items() if hasattr(model, "nnx_class") and _is_made_in_place(value)]
    if not made:
        return passed(NAME, "hashable")
    detail = f"{', '.join(made)} was made by a call: made again for each model, it lets jit trace each again"
    return warn(NAME, detail, _made_once(made), made_in_place=made)


def _made_once(names: Sequence[str]) -> str:
    what = ", ".join(names) or "its arguments"
    return f"make_model = functools.cache(make_model)  # or make {what} once, at module level"


def _kept(layer: Bridged) -> Check:
    """Whether the constructor has an argument that `to_linen` consumes itself."""
    model = layer.model
    kept = [name for name in _parameters(_constructor(model)) if name in KEPT_BY_TO_LINEN]
    if not kept:
        return passed(NAME, "")
    given = [name for name in kept if name in model.kwargs]
    here = f"ToLinen's kwargs give it {', '.join(given)} here" if given else "it got none here"
    detail = f"its constructor takes {', '.join(kept)}, which to_linen keeps for itself: {here}"
    values = {name: _kept_value(model, name) for name in kept} | dict(model.kwargs)
    arguments = ", ".join(f"{key}={as_code.value(value)}" for key, value in values.items())
    args = f"args={as_code.value(tuple(model.args))}, " if model.args else ""
    fix = f"ToLinen({as_code.value(model.nnx_class)}, {args}kwargs=FrozenDict({arguments}))"
    return warn(NAME, detail, fix, kept_by_to_linen=kept, given=given)


def _kept_value(model: Any, name: str) -> Any:
    # What to_linen consumed is in the wrapper's own field.
    taken = model.name if name == "name" else None
    return taken if taken is not None else _parameters(_constructor(model))[name].default


def _axes(subject: Subject) -> Check:
    """Whether x may have one axis fewer or one more."""
    shape = tuple(subject.x.shape)
    # Further arrays keep the axes that they have.
    if not shape or any(
        hasattr(leaf, "shape")
        for leaf in jax.tree.leaves([dict(one.call) for one in (subject.model, subject.layer) if one])
    ):
        return passed(NAME, "")
    # A single axis is the feature axis: without it there is no x.
    fewer = _refusal(subject, shape[1:]) if len(shape) > 1 else "not tried"
    more = _refusal(subject, (2, *shape))
    evidence = {"axes": {"fewer": fewer or "works", "more": more or "works"}}
    if not (fewer and more):
        return passed(NAME, "other numbers of axes taken", **evidence)
    if len(shape) == 1:
        detail = f"it takes no batch axis: x of shape {[2, *shape]} raises {more}"
        fix = "y = jax.vmap(lambda one: model.apply(variables, one))(x)"
    else:
        detail = f"it needs a batch axis: x of {len(shape)} axes works, x[0] raises {fewer}"
        fix = "y = model.apply(variables, one[None])[0]"
    return warn(NAME, detail, fix, **evidence)


def _refusal(subject: Subject, shape: tuple[int, ...]) -> str | None:
    x = jax.ShapeDtypeStruct(shape, subject.x.dtype)
    try:
        jax.eval_shape(subject.apply, subject.shapes, subject.key, x)
    except Exception as error:  # noqa: BLE001 - whatever the layer says to another shape
        return words(error)
    return None


def _captured(subject: Subject) -> Check:
    """Whether `capture_intermediates` sees every requested call: it sees Linen modules, none inside a wrapper."""
    seen = _seen(subject)
    evidence = {"captured": seen}
    if INTERMEDIATES not in subject.mutable or INTERMEDIATES in subject.needs.mutable:
        return passed(NAME, "", **evidence)
    hidden = [
        path
        for name, model in lifts.wrapped_calls(subject.model, subject.needs.streams, subject.x)
        for path in _inside(name, model)
    ]
    if not hidden:
        return passed(NAME, "", **evidence)
    detail = f"apply is asked for intermediates, and capture_intermediates sees {', '.join(seen)}: none of"
    # Under a name unused by the layer: `sow` can't write to an existing attribute.
    lines = [f"self.sow(nnx.Intermediate, '{path.split('/')[-1]}_output', y)" for path in hidden[:3]]
    fix = "\n".join(["# in the layer, y being what each gives:", *dict.fromkeys(lines)])
    return fail(NAME, f"{detail} {listed(hidden)} inside the wrapper", fix, hidden=hidden, **evidence)


def _inside(name: str, model: Any) -> list[str]:
    """Paths of the NNX modules inside the wrapped layer `name`, except List and Dict, which are never called."""
    construct = unwrapped.constructor(model)
    assert construct is not None
    modules = nnx.iter_modules(nnx.eval_shape(lambda: construct({})))
    return ["/".join(filter(None, [name, *map(str, path)])) for path, inner in modules if path and callable(inner)]


def _seen(subject: Subject) -> list[str]:
    def run(variables: Any, key: Any, x: Any) -> Any:
        keys = rngs.apply_keys(key, subject.rngs)
        mutable = [INTERMEDIATES, *subject.mutable]
        return subject.model.model.apply(
            variables, x, rngs=keys, mutable=mutable, capture_intermediates=True, **subject.model.call
        )[1]

    updated = jax.eval_shape(run, subject.shapes, subject.key, subject.x)
    return ["/".join(map(str, path)) for path, _ in trees.flatten(updated.get(INTERMEDIATES, {}))]


def _constructor(model: Any) -> Any:
    return as_code.constructor(model.nnx_class) if hasattr(model, "nnx_class") else None


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    return as_code.parameters(function) if function is not None else {}


def _settings(model: Any) -> dict[str, Any]:
    """The constructor arguments of a wrapped layer; the fields of any other Linen module."""
    if hasattr(model, "nnx_class"):
        return {f"args[{index}]": value for index, value in enumerate(model.args)} | dict(model.kwargs)
    return {key: getattr(model, key) for key in model.__dataclass_fields__ if key not in ("parent", "name")}


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_made_in_place(value: Any) -> bool:
    """Whether `value` is a function compared by identity and in no module by name: a lambda, closure or partial."""
    if isinstance(value, functools.partial):
        return True
    if not inspect.isfunction(value) or "<" not in value.__qualname__:
        return False
    return all(value is not other for other in value.__globals__.values())
