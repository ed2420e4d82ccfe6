"""Check 4, mutable: a layer's updates reach the pipeline, are correct, and can be passed to the next apply.

What a call changes and no variable holds is lost: attributes in Python, and rng state outside a stream of `nnx.Rngs`,
which the bridge does not store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from runner.arrays import closeness, trees
from runner.arrays.closeness import describe
from runner.bridge import native, rngs
from runner.bridge.tracing import own_wrappers
from runner.checks.parts import own_storage, unkept
from runner.checks.probes import as_code, written
from runner.checks.probes.subject import Subject
from runner.checks.programs import flow
from runner.checks.results import verdicts
from runner.checks.user_code.python_state import placed
from runner.errors import listed, nearest
from runner.records.record import Check, Verdict

NAME = "mutable"

INDENT = "    "

KEY_OF_ITS_OWN = """\
self.drawn = nnx.BatchStat(jax.random.normal(rngs.noise(), shape))  # in the constructor: drawn once
jax.random.normal(self.rngs.noise(), shape)  # in the call, with self.rngs = rngs: drawn at every call"""


def check(subject: Subject, *, full: bool) -> Check:
    """No update is dropped, and updated variables stay variables; with `full`, updates equal the native module's."""
    if rewritten := _rewritten(subject):
        return rewritten
    left, unasked = _left_in_python(subject)
    if left is not None:
        return left
    if own := _rng_state(subject):
        return own
    found = _of_variables(subject, full=full)
    if unasked and found.verdict is not Verdict.fail:
        return verdicts.untested(NAME, f"whether the call keeps state in Python: {unasked}; {found.detail}", found.fix)
    return found


def _of_variables(subject: Subject, *, full: bool) -> Check:
    changed = subject.needs.mutable
    if lost := [one for one in unkept.of_host(subject) if one.changed]:
        return unkept.fail_updates(NAME, lost)
    if lost := unkept.dropped(subject):
        return unkept.fail_dropped(NAME, lost, subject)
    if unwritten := own_storage.unwritten(subject, NAME):
        return unwritten
    # As in Linen, sown values that were not requested are not a loss.
    dropped = [name for name in changed if name not in subject.mutable and not flow.is_sown(name)]
    if dropped:
        return _dropped(subject, dropped)
    fed_back = _fed_back(subject, full=full)
    if fed_back is not None:
        return fed_back
    if reshaped := _reshaped(subject):
        return reshaped
    unknown = [name for name in subject.mutable if name not in subject.shapes and name not in changed]
    if unknown and subject.pipeline is None:  # which gives every layer the same
        return _unknown(subject, unknown)
    return _kept(subject, full=full)


def _kept(subject: Subject, *, full: bool) -> Check:
    """What is said where every update comes back and fits; with `full`, whether it is the native module's."""
    wanted = [name for name in subject.needs.mutable if name in subject.mutable]
    if not wanted:
        return verdicts.passed(NAME, "apply changes no collection that has to come back")
    detail = f"apply changes {', '.join(wanted)}, which come back as updates"
    found = verdicts.passed(NAME, detail, changed=wanted)
    if full and subject.model.construct is not None and _is_stored_by_type(subject):
        found = _against_native(subject, detail)
    normalised = written.by_flax(subject) if found.verdict is Verdict.passed else []
    return _normalised(found, normalised) if normalised else found


def _is_stored_by_type(subject: Subject) -> bool:
    """Whether every variable lies in the collection of its type, so that the native module can be given it."""
    is_own = own_wrappers.is_own(subject.model.model)
    return not is_own or all(flow.variable_type(str(name)) is not None for name in subject.shapes)


def _left_in_python(subject: Subject) -> tuple[Check | None, str]:
    """The fail for state in attributes that are no variables, and what kept the question from being asked."""
    places: dict[str, str] = {}
    try:
        for path, one in subject.natives.items():
            if isinstance(state := one.state, Exception):
                return None, verdicts.words(state)
            places |= {placed(path, name): name for name in (*state.read, *state.running)}
    except Exception as error:  # noqa: BLE001 - a module that can't be split and merged
        return None, verdicts.words(error)
    return (_lost_in_python(places) if places else None), ""


def _lost_in_python(places: Mapping[str, str]) -> Check:
    names = list(places)
    has, it = ("is an attribute", "it") if len(names) == 1 else ("are attributes", "them")
    detail = (
        f"the call changes {listed(names)}, which {has} in Python and no nnx.Variable: apply builds the module again, "
        f"so the change is lost before the next call, and mutable can't name {it}"
    )
    lines = [
        f"self.{name} = nnx.BatchStat(jnp.asarray(…))  # in the constructor; then self.{name}[...] = …, and mutable"
        for name in list(dict.fromkeys(places.values()))[:3]
    ]
    return verdicts.fail(NAME, detail, "\n".join(lines), attributes=names)


def _rng_state(subject: Subject) -> Check | None:
    """The fail for keys and counts that a layer keeps for itself as rng state, which no variable holds."""
    found = {
        placed(path, name): is_key for path, one in subject.natives.items() for name, is_key in one.rng_state.items()
    }
    if not found:
        return None
    are, them = ("is rng state of its own", "it") if len(found) == 1 else ("are rng state of their own", "them")
    detail = (
        f"the call reads {listed(list(found))}, which {are}, in no stream of nnx.Rngs: the bridge stores no rng state, "
        f"and apply makes {them} again from the keys of that call"
    )
    counts = [name.rpartition(".")[2] for name, is_key in found.items() if not is_key]
    fixes = [f"self.{name} = nnx.BatchStat(…)  # in the constructor, and mutable" for name in counts]
    fixes += [KEY_OF_ITS_OWN] if any(found.values()) else []
    return verdicts.fail(NAME, detail, "\n".join(fixes), rng_state=list(found))


def _rewritten(subject: Subject) -> Check | None:
    """The fail for params that the layer's own code changes in the call."""
    paths = written.by_the_layer(subject)
    if not paths:
        return None
    names = listed(["/".join(map(str, path)) for path in paths])
    detail = (
        f"the call changes {names} in place: params are the optimiser's, and what the call writes there is lost, or "
        "overwrites the step (mutable holds params)"
    )
    owner = str(paths[0][-1])
    fix = f"{owner} = normalise(self.{owner}[...])  # in the call; or an nnx.BatchStat for what it keeps"
    return verdicts.fail(NAME, detail, fix, changed=["/".join(map(str, path)) for path in paths])


def _normalised(found: Check, paths: Sequence[trees.Path]) -> Check:
    names = listed(["/".join(map(str, path)) for path in paths])
    detail = (
        f"{found.detail}; flax's own normalisation writes {names} in place: right as long as the optimiser steps from "
        "what the last apply gave back"
    )
    fix = "state = state.replace(params=updates['params'])  # before the step"
    return verdicts.warn(NAME, detail, fix, **found.evidence)


def _reshaped(subject: Subject) -> Check | None:
    """The fail for an update of another shape or dtype than the variable that it replaces."""
    before = dict(trees.flatten(trees.unbox(subject.shapes)))
    after = dict(trees.flatten(trees.unbox(subject.returned[1])))
    wrong = {
        path: f"{'/'.join(map(str, path))} (init: {describe(before[path])}, update: {describe(leaf)})"
        for path, leaf in after.items()
        if path in before and describe(before[path]) != describe(leaf)
    }
    if not wrong:
        return None
    detail = (
        f"an update has another shape or dtype than init's variable: {listed(list(wrong.values()))}: the next apply is "
        "another program, and a checkpoint of one does not restore into the other"
    )
    lines = [
        f"self.{path[-1]}.set_value(new.astype('{before[path].dtype}'))  # of shape {tuple(before[path].shape)}"
        for path in wrong
    ]
    return verdicts.fail(NAME, detail, "\n".join(lines[:3]), reshaped=["/".join(map(str, path)) for path in wrong])


def _dropped(subject: Subject, dropped: Sequence[str]) -> Check:
    names = ", ".join(dropped)
    asked = f"mutable={sorted({*subject.mutable, *dropped})}"
    code = [
        f"output, updates = model.apply(variables, x{_rngs(subject)}, {asked})",
        "variables = {**variables, **updates}",
    ]
    detail = f"apply changes {names} and is not asked for it: the update is dropped without a word"
    return verdicts.fail(NAME, detail, "\n".join([*code, "# here: layer.mutable=null"]), dropped=list(dropped))


def _unknown(subject: Subject, unknown: Sequence[str]) -> Check:
    known = {*subject.shapes, *subject.needs.mutable}
    meant = {name: nearest(name, known) for name in unknown}
    said = [f"{name} (meant: {close}?)" if close else name for name, close in meant.items()]
    detail = f"mutable names {', '.join(said)}, which neither the variables nor the updates have"
    return verdicts.warn(NAME, detail, "layer.mutable=null", unknown=list(unknown))


def _fed_back(subject: Subject, *, full: bool) -> Check | None:
    """What is wrong with passing the updates to the next apply; None if nothing."""
    known = set(_paths(subject.needs.variables))
    try:
        _, updates = subject.returned
    except Exception as error:
        # Variables made by an earlier call, such as a cache, were passed in with the others.
        extra = [path for path in _paths(subject.shapes) if path not in known and path[0] in subject.needs.mutable]
        if not extra:
            raise
        shapes = {path: leaf for path, leaf in trees.flatten(trees.unbox(subject.shapes)) if path in extra}
        told = _eager_error(subject, error, given=True) if full else error
        return _refused(subject, shapes, told, given=True)
    made = {path: leaf for path, leaf in trees.flatten(trees.unbox(updates)) if path not in _paths(subject.shapes)}
    if not made:
        return None
    if replaced := _replaced(subject, list(made)):
        return replaced
    key = jax.ShapeDtypeStruct(subject.key.shape, subject.key.dtype)
    try:
        jax.eval_shape(subject.apply, {**subject.shapes, **updates}, key, trees.shapes(subject.x))
    except Exception as error:  # noqa: BLE001 - whatever the layer's own code raises
        told = _eager_error(subject, error, given=False) if full else error
        return _refused(subject, made, told, given=False)
    late = [path for path in made if not flow.is_sown(str(path[0]))]
    return _late(subject, {path: made[path] for path in late}) if late else None


def _replaced(subject: Subject, made: Sequence[trees.Path]) -> Check | None:
    """The fail for Variables in whose place the call puts an array."""
    held = {path[1:]: path for path in _paths(subject.shapes)}
    kinds = {path: flow.variable_type(str(path[0])) for path in made}
    raw = [path for path, kind in kinds.items() if kind is not None and not issubclass(kind, nnx.Variable)]
    lost = [held[path[1:]] for path in raw if path[1:] in held]
    if not lost:
        return None
    names = listed(["/".join(map(str, path)) for path in lost])
    are = "is a Variable" if len(lost) == 1 else "are Variables"
    detail = (
        f"the call puts an array in the place of {names}, which {are}: the bridge returns it in a collection that "
        "apply does not read, so the update is lost"
    )
    lines = [f"self.{'.'.join(map(str, path[1:]))}[...] = …  # in place of self.{path[-1]} = …" for path in lost[:3]]
    return verdicts.fail(NAME, detail, "\n".join(lines), replaced=["/".join(map(str, path)) for path in lost])


def _late(subject: Subject, made: dict[trees.Path, Any]) -> Check:
    """What is said of variables that a call makes and the next apply takes: init leaves them out."""
    names = listed(["/".join(map(str, path)) for path in made])
    is_made, them = ("is made", "it") if len(made) == 1 else ("are made", "them")
    detail = f"{names} {is_made} by a call, not by the constructor: init leaves {them} out"
    say = verdicts.fail if any(path[0] == rngs.PARAMS for path in made) else verdicts.warn
    return say(NAME, detail, _in_constructor(subject, made), made=sorted({str(path[0]) for path in made}))


def _eager_error(subject: Subject, traced: Exception, *, given: bool) -> Exception:
    """What apply (if its result is `given`), or the next one, raises outside jit: its message is about arrays."""
    # A call that raises stops early; one that works would compile each of its operations separately.
    first = subject.apply if given else subject.run
    try:
        _, updates = first(subject.variables, subject.key, subject.x)
        subject.apply({**subject.variables, **updates}, subject.key, subject.x)
    except Exception as error:  # noqa: BLE001 - whatever the layer's own code raises
        return error
    return traced


def _refused(subject: Subject, made: dict[trees.Path, Any], error: Exception, *, given: bool) -> Check:
    collections = sorted({str(path[0]) for path in made})
    names = listed(["/".join(map(str, path)) for path in made])
    what = verdicts.words(error)
    if all(flow.is_sown(name) for name in collections):
        say, back = (verdicts.fail, "given as variables here") if given else (verdicts.warn, "given back as variables")
        fix = _without_sown(subject, collections, given=given)
        return say(NAME, f"apply sows {names}; {back} they raise {what}", fix, made=collections, error=what)
    is_made, them = ("is made", "it") if len(made) == 1 else ("are made", "them")
    call = "apply" if given else "the next apply"
    detail = f"{names} {is_made} by a call, not by the constructor: {call} that is given {them} raises {what}"
    # A Linen module inside the layer creates its params on the first call if it was not initialised.
    fix = as_code.LAZY_INIT if rngs.PARAMS in collections else _in_constructor(subject, made)
    return verdicts.fail(NAME, detail, fix, made=collections, error=what)


def _without_sown(subject: Subject, sown: Sequence[str], *, given: bool) -> str:
    lines = [f"variables = {{name: tree for name, tree in variables.items() if name not in {list(sown)}}}"] * given
    lines += [f"output, updates = model.apply(variables, x{_rngs(subject)}, mutable={sorted(subject.mutable)})"]
    lines += [f"{name} = updates.pop({name!r})" for name in sown]
    return "\n".join([*lines, "variables = {**variables, **updates}"])


def _in_constructor(subject: Subject, made: dict[trees.Path, Any]) -> str:
    """A factory that creates up front what a call creates, so that the native module has a place for it."""
    name = getattr(getattr(subject.model.model, "nnx_class", None), "__name__", "MyLayer")
    lines = []
    for (collection, *path), leaf in made.items():
        owner = "layer" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[:-1])
        if path[-1] == "cached_key":
            lines.append(f"{owner}.init_cache({(*leaf.shape[:-2], subject.x.shape[-1])})")
        elif path[-1] not in ("cached_value", "cache_index"):
            kind = flow.variable_type(str(collection))
            kind_name = "Variable" if kind is None else kind.__name__
            lines.append(f"{owner}.{path[-1]} = nnx.{kind_name}(jnp.zeros({leaf.shape}, '{leaf.dtype}'))")
    body = [
        f"layer = {name}(**kwargs, rngs=rngs)",
        *lines[:3],
        "return layer  # here: layer.target=my_module.make_layer",
    ]
    return "\n".join(["def make_layer(*, rngs, **kwargs):", *(INDENT + line for line in body)])


def _against_native(subject: Subject, detail: str) -> Check:
    _, updates = subject.run(subject.variables, subject.key, subject.x)
    alone = native.in_place(subject.model, rngs.apply_keys(subject.key, subject.rngs), subject.mutable)
    _, natively = subject.jit(alone.apply)(subject.variables, alone.rng_state, subject.x)
    bridged, state = (trees.named_arrays(trees.unbox(one)) for one in (updates, natively))
    differing = closeness.differences(bridged, {name: state[name] for name in bridged if name in state})
    if differing:
        text = f"{detail}, but {listed(list(differing))} differ from the native module's"
        return verdicts.fail(NAME, text, differing=differing)
    text = f"{detail}, equal to the native module's bit for bit"
    return verdicts.passed(NAME, text, num_equal=len(bridged))


def _paths(tree: Any) -> list[trees.Path]:
    return [path for path, _ in trees.flatten(trees.unbox(tree))]


def _rngs(subject: Subject) -> str:
    return ", rngs=rngs" if any(name != rngs.PARAMS for name in subject.rngs) else ""
