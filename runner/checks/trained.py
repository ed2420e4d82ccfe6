"""Check 5, trained: what a native optimiser would train reaches the pipeline's, and gets a gradient.

A weight that only another call trains, in training mode or through a loss that it sows, gets a warning, as does an x
that no gradient reaches: right in some layers, and lost in others. A gradient of x that is NaN is a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from runner.arrays import trees
from runner.arrays.trees import spell_each
from runner.bridge import lifts, rngs
from runner.checks import complete
from runner.checks.parts import other_calls
from runner.checks.parts.other_calls import OtherCall
from runner.checks.probes import as_code, gradients
from runner.checks.probes.gradients import Gradients
from runner.checks.probes.subject import Subject
from runner.checks.programs import flow
from runner.checks.results import verdicts
from runner.errors import listed
from runner.records.record import Check

NAME = "trained"

# JAX's gradient of a real loss is the conjugate of the direction of steepest ascent, which optax expects.
CONJUGATED = """\
gradients = jax.tree.map(jnp.conj, jax.grad(loss)(params))
updates, opt_state = tx.update(gradients, opt_state, params)"""

FINITE = """\
safe = jnp.where(x > 0, x, 1)  # what the branch that is not taken gets must have a gradient too
y = jnp.where(x > 0, jnp.sqrt(safe), 0)"""

# Collections that a layer fills by itself: an optimiser would overwrite what they count or average.
KEPT_BY_THE_LAYER = (nnx.BatchStat, nnx.Cache, nnx.Intermediate, nnx.RngState)


def check(subject: Subject, *, full: bool) -> Check:
    """Every trainable leaf is in the trained collections and is used; with `full` it gets a nonzero gradient."""
    for refusal in (_no_numbers, _kept_by_the_layer, _left_out):
        if (found := refusal(subject)) is not None:
            return found
    conditions = [found for found in (_on_purpose(subject), _raw_constants(subject), _no_params(subject)) if found]
    trained = [path for path in _inexact(subject.shapes) if path[0] in subject.trained]
    if not trained:
        return _under(conditions, "nothing to train: no leaf is trainable")
    output = jax.tree.leaves(subject.returned[0])
    if not any(map(gradients.is_inexact, output)):
        return _no_gradient(output, trained)
    if unread := _unread(subject, trained):
        others = other_calls.reading(subject, unread)
        lost = [path for path in unread if not any(path in one.paths for one in others)]
        if lost:
            detail = f"{_names(lost)} can't be trained: no output depends on {'it' if len(lost) == 1 else 'them'}"
            return verdicts.fail(NAME, detail, _fix_unread(subject, lost), unread=spell_each(lost))
        conditions += map(_read_otherwise, others)
        trained = [path for path in trained if path not in unread]
    conditions += _complex(subject, trained)
    held = ", ".join(_held(subject))
    if full and not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(subject.variables)):
        return _differentiated(subject, trained) or _under(
            conditions, f"{_all(trained)} in {held}, and each gets a nonzero gradient"
        )
    return _under(conditions, f"{_all(trained)} in {held}, and the output depends on each")


def _under(conditions: Sequence[Check], detail: str) -> Check:
    """A pass, or a warning that names the conditions."""
    if not conditions:
        return verdicts.passed(NAME, detail)
    evidence = {key: item for condition in conditions for key, item in condition.evidence.items()}
    fixes = [condition.fix for condition in conditions if condition.fix]
    text = "; ".join(condition.detail for condition in conditions)
    return verdicts.warn(NAME, text, "\n".join(fixes) or None, **evidence)


def _no_numbers(subject: Subject) -> Check | None:
    """Leaves for the optimiser that have no gradient: `jax.grad` refuses the whole tree for one of them."""
    refused = [
        (path, trees.unbox(leaf).dtype)
        for path, leaf in trees.flatten(subject.shapes)
        if path[0] in subject.trained and not gradients.is_inexact(trees.unbox(leaf))
    ]
    if not refused:
        return None
    paths = [path for path, _ in refused]
    kinds = listed(sorted({str(dtype) for _, dtype in refused}))
    detail = f"{_names(paths)} can't be trained: jax.grad refuses {kinds}, and the whole tree with it"
    params = [path for path in paths if _is_param(str(path[0]))]
    fix = _fix_constant(subject, params) if params else _fix_without(subject, paths)
    return verdicts.fail(NAME, detail, fix, no_numbers=spell_each(paths))


def _kept_by_the_layer(subject: Subject) -> Check | None:
    """Statistics, caches and counters that the optimiser would get."""
    kept = [
        path
        for path, _ in trees.flatten(subject.shapes)
        if path[0] in subject.trained and _is_kept(subject, str(path[0]))
    ]
    if not kept:
        return None
    collections = listed(list(dict.fromkeys(str(path[0]) for path in kept)))
    detail = f"{_names(kept)} would be trained as weights: the layer keeps {collections} itself, by what it sees"
    return verdicts.fail(NAME, detail, _fix_without(subject, kept), kept=spell_each(kept))


def _is_kept(subject: Subject, collection: str) -> bool:
    if _is_param(collection):
        return False
    kind = flow.variable_type(collection)
    return collection in subject.needs.mutable or (kind is not None and issubclass(kind, KEPT_BY_THE_LAYER))


def _fix_without(subject: Subject, paths: Sequence[trees.Path]) -> str:
    refused = {str(path[0]) for path in paths}
    names = [name for name in _held(subject) if name not in refused] or [rngs.PARAMS]
    return f"'train.collections=[{','.join(names)}]'"


def _left_out(subject: Subject) -> Check | None:
    """Params that no optimiser gets, unless train.collections leaves them out on purpose."""
    outside = _outside(subject)
    lost = [path for path in outside if _is_param(str(path[0])) or _is_drawn(subject, path)]
    if not lost:
        return None
    collections = list(dict.fromkeys(str(path[0]) for path in lost))
    raw = [path for path in lost if _is_raw(str(path[0]))]
    if subject.trained == (rngs.PARAMS,):
        detail = f"{_names(lost)} would never be trained: the optimiser gets only params"
    elif unknown := [name for name in subject.trained if name not in subject.needs.variables]:
        typo = f" ({', '.join(unknown)}: no such collection)"
        detail = f"{_names(lost)} stay as they are: train.collections{typo} leaves out {', '.join(collections)}"
    else:
        return None
    if raw:
        detail += f"; {_names(raw)} {'is a raw array' if len(raw) == 1 else 'are raw arrays'}, of no Variable"
    return verdicts.fail(NAME, detail, _fix_left_out([*_held(subject), *collections], raw), outside=spell_each(lost))


def _on_purpose(subject: Subject) -> Check | None:
    left = [path for path in _outside(subject) if _is_param(str(path[0]))]
    if not left:
        return None
    collections = list(dict.fromkeys(str(path[0]) for path in left))
    detail = f"{_names(left)} stay as they are: train.collections leaves out {', '.join(collections)}"
    return verdicts.warn(NAME, detail, _fix_left_out([*_held(subject), *collections], []), outside=spell_each(left))


def _raw_constants(subject: Subject) -> Check | None:
    """Arrays of no Variable, the same for every key: natively no optimiser has them either."""
    raw = [path for path in _outside(subject) if _is_raw(str(path[0]))]
    if not raw:
        return None
    what = "is a raw array, of no Variable" if len(raw) == 1 else "are raw arrays, of no Variable"
    detail = f"{_names(raw)} {what}: never trained, right if constant"
    return verdicts.warn(NAME, detail, _fix_left_out(_held(subject), raw), outside=spell_each(raw))


def _no_params(subject: Subject) -> Check | None:
    """Variables that are trained though no optimiser trains their type natively."""
    paths = [
        path
        for path in _inexact(subject.shapes)
        if path[0] in subject.trained and not _is_param(str(path[0])) and not _is_raw(str(path[0]))
    ]
    paths = [path for path in paths if flow.variable_type(str(path[0])) is not None]
    if not paths:
        return None
    detail = f"{_names(paths)} {'is' if len(paths) == 1 else 'are'} trained, though no nnx.Param: right for weights"
    return verdicts.warn(NAME, detail, _fix_without(subject, paths), no_params=spell_each(paths))


def _fix_left_out(names: Sequence[str], raw: Sequence[trees.Path]) -> str:
    here = f"# here: train.collections=[{','.join(dict.fromkeys(names))}]"
    if raw:
        # The name of a raw array's collection depends on how init was called, so no code can rely on it.
        lines = [as_code.as_param(path[1:]) for path in raw[:3]]
        return "\n".join(["# at the end of its __init__; nnx.Variable for a constant:", *lines])
    lines = [
        f"trained = {{name: variables[name] for name in {list(names)}}}",
        "state = TrainState.create(apply_fn=model.apply, params=trained, tx=tx)",
        "output = state.apply_fn({**variables, **state.params}, x)",
    ]
    return "\n".join([*lines, here])


def _no_gradient(output: Sequence[Any], trained: Sequence[trees.Path]) -> Check:
    kinds = listed(sorted({jnp.dtype(leaf.dtype).name for leaf in output})) or "empty"
    detail = f"{_names(trained)} can't be trained through this output: it is {kinds}, and only a floating one has a"
    return verdicts.warn(NAME, f"{detail} gradient: right if another call trains", no_gradient=spell_each(trained))


def _unread(subject: Subject, trained: Sequence[trees.Path]) -> list[trees.Path]:
    read = other_calls.read(subject, trained)
    return [path for path in trained if path not in read]


def _read_otherwise(other: OtherCall) -> Check:
    detail = f"no output of this call depends on {_names(other.paths)}, {other.words}"
    return verdicts.warn(NAME, detail, other.typed, unread=spell_each(other.paths))


def _fix_unread(subject: Subject, unread: Sequence[trees.Path]) -> str | None:
    if complete.new_names(subject):
        return complete.fix(subject)
    wanted = {path for path, _ in trees.flatten(subject.needs.variables)}
    strangers = list(dict.fromkeys(str(path[1]) for path in unread if path not in wanted))
    if not strangers:
        return _fix_constant(subject, unread)
    # An unnamed wrapped layer shifts the automatic numbering of its siblings.
    return "\n".join(f"name={name!r},  # for the layer that is to read {name} of these variables" for name in strangers)


def _fix_constant(subject: Subject, paths: Sequence[trees.Path]) -> str | None:
    """The lines that make constants of Params, for the end of the layer's constructor; None for a host's leaves."""
    if subject.model.construct is None:
        return None
    names = ["".join(f".{part}" if isinstance(part, str) else f"[{part!r}]" for part in path[1:]) for path in paths[:5]]
    lines = [f"self{name} = nnx.Variable(self{name}[...])  # a constant, no nnx.Param" for name in names]
    return "\n".join(dict.fromkeys(lines))


def _complex(subject: Subject, trained: Sequence[trees.Path]) -> list[Check]:
    leaves = dict(trees.flatten(trees.unbox(subject.shapes)))
    found = [path for path in trained if jnp.issubdtype(leaves[path].dtype, jnp.complexfloating)]
    if not found:
        return []
    are = "is" if len(found) == 1 else "are"
    detail = f"{_names(found)} {are} complex: right if the pipeline conjugates their gradients before optax"
    return [verdicts.warn(NAME, f"{detail}, as train.steps does here", CONJUGATED, complex=spell_each(found))]


def _differentiated(subject: Subject, trained: Sequence[trees.Path]) -> Check | None:
    """What is wrong with the gradients; None if nothing is."""
    try:
        seen = gradients.of(subject, trained)
    except Exception as error:  # noqa: BLE001 - whatever the layer's own code raises
        return verdicts.fail(NAME, f"the gradient can't be taken: {verdicts.words(error)}")
    if seen.non_finite:
        detail = f"{_names(seen.non_finite)} can't be trained: the gradient is NaN or infinite where the output is not"
        return verdicts.fail(NAME, detail, non_finite_gradient=spell_each(seen.non_finite))
    if seen.x_is_broken:
        detail = "what comes before can't be trained: the gradient of x is NaN or infinite where the output is not"
        return verdicts.fail(NAME, detail, FINITE, non_finite_gradient=["x"])
    if seen.zero:
        return _without_gradient(subject, seen)
    if seen.x_is_reached is False:
        detail = "no gradient reaches x: right where nothing before is trained"
        return verdicts.warn(NAME, detail, zero_gradient=["x"])
    return None


def _without_gradient(subject: Subject, seen: Gradients) -> Check:
    shape = gradients.wider(subject, seen.zero)
    if shape is not None:
        detail = f"{_names(seen.zero)} got a zero gradient on random x of shape {list(subject.x.shape)}"
        fix = f"'input_shape=[{','.join(map(str, shape))}]'"
        return verdicts.warn(NAME, detail, fix, zero_gradient=spell_each(seen.zero))
    dead = [path for path in seen.zero if path not in (*seen.behind_zeros, *seen.cancelled)]
    if not dead and not _is_whole_layer(subject, seen.behind_zeros):
        return _alive_later(seen)
    dead = dead or seen.zero
    if sown := gradients.through_sown(subject, dead):
        dead = [path for path in dead if path not in sown]
        if not dead:
            detail = f"{_names(sown)} got a gradient through what the call sows alone: right as a part of the loss"
            return verdicts.warn(NAME, detail, zero_gradient=spell_each(seen.zero))
    why = "whatever the data" if set(dead) <= set(seen.never) else f"at all {seen.num_points} random points"
    detail = f"{_names(dead)} can't be trained: the gradient is zero {why}"
    return verdicts.fail(NAME, detail, _fix_constant(subject, dead), zero_gradient=spell_each(dead))


def _alive_later(seen: Gradients) -> Check:
    """The warning of weights whose gradient is zero in this call, and not by the layer's code."""
    parts = []
    if seen.behind_zeros:
        why = "it meets only zeros, as in one step of a recurrent cell: right where later steps bring others"
        parts.append(f"{_names(seen.behind_zeros)} got a zero gradient: {why}")
    if seen.cancelled:
        why = "what it adds in one place cancels in another, as in a shared layer: right if that is meant"
        parts.append(f"{_names(seen.cancelled)} got a zero gradient: {why}")
    return verdicts.warn(NAME, "; ".join(parts), zero_gradient=spell_each(seen.zero))


def _is_whole_layer(subject: Subject, paths: Sequence[trees.Path]) -> bool:
    """Whether the paths are all that is trained of a wrapped layer: then its output is multiplied by zeros."""
    trained = [path for path in _inexact(subject.shapes) if path[0] in subject.trained]
    layers = [""]
    if paths and not lifts.is_wrapped(subject.model):
        layers = [call.path for call in subject.hosted_calls]
    for layer in layers:
        prefix = tuple(layer.split("/")) if layer else ()
        held = {path for path in trained if path[1:][: len(prefix)] == prefix}
        if held and held <= set(paths):
            return True
    return False


def _outside(subject: Subject) -> list[trees.Path]:
    """Leaves that a native optimiser trains, or would if they were not raw arrays, and that this one does not get."""
    paths = _inexact(subject.needs.variables)
    return [path for path in paths if path[0] not in subject.trained and (_is_param(path[0]) or _is_raw(path[0]))]


def _is_drawn(subject: Subject, path: trees.Path) -> bool:
    """Whether init draws the leaf, as it does weights; constants are the same for every key."""
    paths = [other for other, _ in trees.flatten(subject.needs.variables)]
    return flow.read(subject.initialised, [other == path for other in paths])[0]


def _is_param(collection: Any) -> bool:
    kind = flow.variable_type(str(collection))
    return kind is not None and issubclass(kind, nnx.Param)


def _is_raw(collection: Any) -> bool:
    kind = flow.variable_type(str(collection))
    return kind is not None and not issubclass(kind, nnx.Variable)


def _all(paths: Sequence[trees.Path]) -> str:
    return "the one trainable leaf is" if len(paths) == 1 else f"all {len(paths)} trainable leaves are"


def _held(subject: Subject) -> list[str]:
    return [name for name in subject.trained if name in subject.shapes]


def _inexact(tree: Any) -> list[trees.Path]:
    return [path for path, leaf in trees.flatten(tree) if gradients.is_inexact(trees.unbox(leaf))]


def _names(paths: Sequence[trees.Path]) -> str:
    return listed(spell_each(paths))
