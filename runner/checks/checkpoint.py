"""Check 8, checkpoint: variables survive an Orbax round trip bit for bit, with a restore target and without.

Without a target, Orbax restores integer and tuple keys as strings and joins names with dots and slashes. A raw array in
a layer changes collection between eager and jitted init, so a checkpoint of one does not restore into the other.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from runner.arrays import checkpoint, closeness, trees
from runner.arrays.checkpoint import CheckpointError
from runner.checks.probes import as_code, unwrapped
from runner.checks.probes.subject import Subject
from runner.checks.results import verdicts
from runner.errors import listed
from runner.records.record import Check

NAME = "checkpoint"

# Orbax joins keys with dots into file names, others with slashes; a key with a backslash is written but not restored.
JOINING = re.compile(r"[./\\]")

WITHOUT_EMPTY = """\
from flax.traverse_util import flatten_dict, unflatten_dict
flat = flatten_dict(jax.device_get(variables))
checkpointer = ocp.PyTreeCheckpointer()
checkpointer.save(path, unflatten_dict({key: leaf for key, leaf in flat.items() if leaf.size}))
variables = unflatten_dict(flat | flatten_dict(checkpointer.restore(path)))  # the empty ones from init"""

OTHER_BITS = "apply answers with other bits"

WITH_INTEGERS = "variables = nnx.restore_int_paths(ocp.PyTreeCheckpointer().restore(path))"


@dataclass(frozen=True, kw_only=True)
class _Trip:
    """Result of one round trip: the restored tree, if any, and what is wrong with it (None if nothing)."""

    tree: Any = None
    problem: str | None = None


def check(subject: Subject, *, full: bool) -> Check:
    """Saves the variables to a temporary folder, restores them both ways and applies them."""
    if not trees.flatten(subject.shapes):
        return verdicts.passed(NAME, "no variables: nothing to save")
    if weak := _weak(subject):
        return weak
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(subject.variables)):
        return verdicts.untested(NAME, "the variables that were given are shapes without values")
    variables = trees.to_host(subject.variables)
    with tempfile.TemporaryDirectory() as folder:
        moved = _raw_arrays(subject, Path(folder))
        if moved is not None:
            return moved
        path = Path(folder) / "saved"
        try:
            checkpoint.save(variables, path)
        except CheckpointError as error:
            return _not_saved(variables, error)
        expected = subject.run(subject.variables, subject.key, subject.x)
        if not _same(expected, subject.run(subject.variables, subject.key, subject.x)):
            return verdicts.untested(NAME, "the same call gives other bits each time, with the same variables")

        def trip(restore: Callable[[], Any]) -> _Trip:
            return _trip(restore, variables, expected, lambda tree: _applied(subject, tree))

        plain = trip(lambda: checkpoint.restore(path))
        targeted = trip(lambda: checkpoint.restore_like(path, trees.shapes(variables)))
    return _verdict(subject, variables, plain, targeted)


def _weak(subject: Subject) -> Check | None:
    """The fail for leaves that have no dtype of their own yet, if the output's changes once they have one."""
    leaves = trees.flatten(trees.unbox(subject.shapes))
    weak = [path for path, leaf in leaves if getattr(leaf, "weak_type", False)]
    if not weak:
        return None
    kinds = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(subject.shapes)]
    strong = jax.tree.unflatten(jax.tree.structure(subject.shapes), kinds)
    key = jax.ShapeDtypeStruct(subject.key.shape, subject.key.dtype)
    after, _ = jax.eval_shape(subject.apply, strong, key, trees.shapes(subject.x))
    before = subject.returned[0]
    dtypes = [(str(one.dtype), str(two.dtype)) for one, two in zip(*map(jax.tree.leaves, (before, after)), strict=True)]
    changed = [pair for pair in dtypes if pair[0] != pair[1]]
    if not changed:
        return None
    names = [_name(path) for path in weak]
    detail = (
        f"{listed(names)} {_is(names)} weakly typed, as a Python number is: the output is {changed[0][0]}, and "
        f"{changed[0][1]} after a step of an optimiser, a checkpoint or a copy to the host"
    )
    lines = [
        f"{as_code.as_param(path[1:]).partition(' = ')[0]} = nnx.Param(jnp.asarray(…, dtype))" for path in weak[:3]
    ]
    return verdicts.fail(NAME, detail, "\n".join(lines), weak=names)


def _raw_arrays(subject: Subject, folder: Path) -> Check | None:
    """The warning for arrays that are no `nnx.Variable`: their collection is named after their JAX class."""
    if subject.model is (subject.layer or subject.model) and not unwrapped.holds_raw_arrays(subject.model.model):
        return None
    eager = trees.to_host(subject.model.init(subject.key, subject.needs.streams, subject.x))
    traced = trees.unbox(subject.needs.variables)
    moved = sorted(_paths(eager) - _paths(traced), key=str)
    if not moved:
        return None
    try:
        checkpoint.save(eager, folder / "eager")
        checkpoint.restore_like(folder / "eager", trees.shapes(traced))
        raised = ""
    except CheckpointError as error:
        raised = _reason(error)
    places = {path[1:]: path[0] for path in _paths(traced)}
    collections = {_name(path[1:]): [path[0], places.get(path[1:])] for path in moved}
    names = [
        f"{name} ({eagerly} eagerly, {jitted or 'nowhere'} jitted)" for name, (eagerly, jitted) in collections.items()
    ]
    fix = "\n".join(as_code.as_param(path[1:]) for path in moved[:3])
    return verdicts.warn(
        NAME,
        f"raw array, no nnx.Variable: {listed(names)}: an eager init's checkpoint does not fit a jitted one's tree",
        f"{fix}  # at the end of its __init__; nnx.Variable for a constant",
        collections=collections,
        raised=raised,
    )


def _not_saved(variables: Any, error: CheckpointError) -> Check:
    empty = [_name(key) for key, leaf in _leaves(variables) if leaf.size == 0]
    if empty:
        detail = f"{listed(empty)} {_is(empty)} of size 0, and Orbax saves no empty array"
        return verdicts.fail(NAME, detail, WITHOUT_EMPTY, empty=empty)
    odd = _joining(variables)
    return verdicts.fail(NAME, f"the variables can't be saved: {_reason(error)}", _renamed(odd), names=odd)


def _trip(restore: Callable[[], Any], saved: Any, expected: Any, apply: Callable[[Any], Any]) -> _Trip:
    try:
        tree = restore()
    except CheckpointError as error:
        return _Trip(problem=f"restoring raises {_reason(error)}")
    differing = closeness.differences(trees.named_arrays(saved), trees.named_arrays(tree))
    if differing:
        return _Trip(
            tree=tree, problem=f"{listed(list(differing))} {'comes' if len(differing) == 1 else 'come'} back otherwise"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found unknown module paths")
            same = _same(expected, apply(tree))
    except Exception as error:  # noqa: BLE001 - what apply says to keys that are not its own
        return _Trip(tree=tree, problem=f"apply raises {verdicts.words(error)}")
    return _Trip(tree=tree, problem=None if same else OTHER_BITS)


def _applied(subject: Subject, tree: Any) -> Any:
    apply = subject.run if _paths(tree) == _paths(subject.variables) else subject.jit(subject.apply)
    return apply(tree, subject.key, subject.x)


def _verdict(subject: Subject, variables: Any, plain: _Trip, targeted: _Trip) -> Check:
    found = {"without_target": plain.problem or "same bits", "with_target": targeted.problem or "same bits"}
    lost = [] if plain.tree is None else sorted(_paths(variables) - _paths(plain.tree), key=str)
    odd = _joining(variables)
    if lost:
        after = plain.problem or "apply answers with the same bits all the same"
        kinds = _kinds(part for path in lost for part in path)
        names = [_name(path) for path in lost]
        detail = f"{kinds} keys come back as strings without a target, and {after}: {listed(names)}"
        # An error is loud, and what fixes it is known: other bits are neither.
        say = verdicts.fail if targeted.problem or plain.problem == OTHER_BITS else verdicts.warn
        return say(NAME, detail, _fix_keys(subject, variables, plain, targeted), keys=names[:20], **found)
    if plain.problem or targeted.problem:
        detail = f"without a target: {found['without_target']}; with one: {found['with_target']}"
        return verdicts.fail(NAME, detail, _renamed(odd), names=odd, **found)
    if odd:
        detail = f"the same bits come back, but joined by dots or slashes a name is like a nested one: {listed(odd)}"
        return verdicts.warn(NAME, detail, _renamed(odd), names=odd, **found)
    return verdicts.passed(NAME, "the same bits after saving and restoring, with a target and without", **found)


def _fix_keys(subject: Subject, variables: Any, plain: _Trip, targeted: _Trip) -> str | None:
    if _paths(nnx.restore_int_paths(plain.tree)) == _paths(variables):
        return WITH_INTEGERS
    if targeted.problem:
        return None
    call = "".join(f", {key}={value!r}" for key, value in subject.model.call.items())
    keys = ", ".join(f"{stream!r}: key" for stream in subject.needs.streams)
    return (
        f"target = nn.unbox(jax.eval_shape(lambda key: model.init({{{keys}}}, x{call}), key))\n"
        "variables = ocp.StandardCheckpointer().restore(path, target)"
    )


def _joining(variables: Any) -> list[str]:
    """Paths with a key that contains a dot, slash or backslash."""
    joining = [
        path for path in _paths(variables) if any(isinstance(part, str) and JOINING.search(part) for part in path)
    ]
    return sorted(_name(path) for path in joining)


def _renamed(names: Sequence[str]) -> str | None:
    if not names:
        return None
    return "name the attribute or Dict key with letters, digits and _: no dot, slash or backslash"


def _same(first: Any, second: Any) -> bool:
    return not closeness.differences(trees.named_arrays(first), trees.named_arrays(second))


def _leaves(tree: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Leaves by their unconverted keys: integers and tuples are kept."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(tuple(getattr(part, "key", part) for part in path), leaf) for path, leaf in pairs]


def _paths(tree: Any) -> set[tuple[Any, ...]]:
    return {path for path, _ in _leaves(tree)}


def _name(path: Iterable[Any]) -> str:
    return "/".join(map(str, path))


def _kinds(parts: Iterable[Any]) -> str:
    kinds = {type(part) for part in parts}
    return " and ".join(word for kind, word in ((int, "integer"), (tuple, "tuple")) if kind in kinds) or "other"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _reason(error: CheckpointError) -> str:
    """The error message, Orbax's or ours, without the name of the temporary folder."""
    text = verdicts.words(error.__cause__) if error.__cause__ else str(error)
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/\w+/", "", text)
