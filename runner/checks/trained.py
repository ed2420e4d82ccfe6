"""Check 5, trained: what a native optimiser would train reaches the pipeline's, and gets a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from runner.arrays import trees
from runner.bridge import rngs
from runner.checks import complete, verdicts
from runner.checks.probes import as_code, flow, hlo
from runner.checks.probes.subject import Subject
from runner.errors import listed
from runner.records.record import Check

NAME = "trained"

# Scale of the noise added to every trained leaf: a leaf initialised to zero, as in LoRA, hides another's gradient.
NOISE = 0.1


def check(subject: Subject, *, full: bool) -> Check:
    """Every trainable leaf is in the trained collections and is used; with `full` it gets a nonzero gradient."""
    trainable = [path for path in _floating(subject.needs.variables) if _is_trainable(str(path[0]))]
    outside = [path for path in trainable if path[0] not in subject.trained]
    if outside:
        return _left_out(subject, outside)
    trained = [path for path in _floating(subject.shapes) if path[0] in subject.trained]
    if not trained:
        return verdicts.passed(NAME, "nothing to train: no leaf is trainable")
    output = jax.tree.leaves(subject.returned[0])
    if not any(_is_floating(leaf) for leaf in output):
        kinds = listed(sorted({jnp.dtype(leaf.dtype).name for leaf in output})) or "empty"
        return verdicts.passed(NAME, f"nothing to train: the output is {kinds}, and only a floating one has a gradient")
    unread = _unread(subject, trained)
    if unread:
        detail = f"{_names(unread)} can't be trained: no output depends on {'it' if len(unread) == 1 else 'them'}"
        return verdicts.fail(NAME, detail, _fix_unread(subject, unread), unread=_texts(unread))
    if full and not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(subject.variables)):
        return _gradients(subject, trained)
    return verdicts.passed(NAME, f"{_all(trained)} in {', '.join(_held(subject))}, and the output depends on each")


def _left_out(subject: Subject, outside: Sequence[trees.Path]) -> Check:
    collections = list(dict.fromkeys(str(path[0]) for path in outside))
    raw = [path for path in outside if _is_raw(str(path[0]))]
    if subject.trained != (rngs.PARAMS,):
        unknown = [name for name in subject.trained if name not in subject.needs.variables]
        typo = f" ({', '.join(unknown)}: no such collection)" if unknown else ""
        detail = f"{_names(outside)} stay as they are: train.collections{typo} leaves out {', '.join(collections)}"
        say = verdicts.fail if unknown else verdicts.warn
    else:
        detail = f"{_names(outside)} would never be trained: the optimiser gets only params"
        say = verdicts.fail
    if raw:
        detail += f"; {_names(raw)} {'is a raw array' if len(raw) == 1 else 'are raw arrays'}, of no Variable"
    return say(NAME, detail, _fix_left_out([*_held(subject), *collections], raw), outside=_texts(outside))


def _fix_left_out(names: Sequence[str], raw: Sequence[trees.Path]) -> str:
    here = f"# here: train.collections=[{','.join(names)}]"
    if raw:
        # The name of a raw array's collection depends on how init was called, so no code can rely on it.
        lines = [as_code.as_param(path[1:]) for path in raw[:3]]
        return "\n".join(["# at the end of its __init__; nnx.Variable for a constant:", *lines, here])
    lines = [
        f"trained = {{name: variables[name] for name in {list(names)}}}",
        "state = TrainState.create(apply_fn=model.apply, params=trained, tx=tx)",
        "output = state.apply_fn({**variables, **state.params}, x)",
    ]
    return "\n".join([*lines, here])


def _unread(subject: Subject, trained: Sequence[trees.Path]) -> list[trees.Path]:
    output, updates = subject.returned
    chosen = [_is_floating(leaf) for leaf in jax.tree.leaves(output)] + [False] * len(jax.tree.leaves(updates))
    paths = [path for path, _ in trees.flatten(subject.shapes)]
    read = flow.read(subject.applied, chosen)[: len(paths)]
    return [path for path, is_read in zip(paths, read, strict=True) if path in trained and not is_read]


def _fix_unread(subject: Subject, unread: Sequence[trees.Path]) -> str:
    if complete.new_names(subject):
        return complete.fix(subject)
    wanted = {path for path, _ in trees.flatten(subject.needs.variables)}
    strangers = list(dict.fromkeys(str(path[1]) for path in unread if path not in wanted))
    if not strangers:
        return _fix_constant(unread)
    # An unnamed wrapped layer shifts the automatic numbering of its siblings.
    return "\n".join(f"name={name!r},  # for the layer that is to read {name} of these variables" for name in strangers)


def _fix_constant(paths: Sequence[trees.Path]) -> str:
    lines = [f"self.{path[-1]} = nnx.Variable(self.{path[-1]}[...])  # a constant, no nnx.Param" for path in paths[:5]]
    return "\n".join(dict.fromkeys(lines))


def _gradients(subject: Subject, trained: Sequence[trees.Path]) -> Check:
    leaves = jax.tree.leaves(subject.variables)
    structure = jax.tree.structure(subject.variables)
    paths = [path for path, _ in trees.flatten(subject.variables)]
    places = [place for place, path in enumerate(paths) if path in trained]

    def loss(chosen: list[Any], leaves: list[Any], key: jax.Array, x: jax.Array) -> Any:
        placed = list(leaves)
        for place, leaf in zip(places, chosen, strict=True):
            placed[place] = leaf
        output, _ = subject.apply(jax.tree.unflatten(structure, placed), key, x)
        floating = [leaf for leaf in jax.tree.leaves(output) if _is_floating(leaf)]
        return sum(jnp.sum(leaf * _normal(leaf, num)) for num, leaf in enumerate(floating))

    chosen = [_noisy(leaves[place], 1000 + place) for place in places]
    x = jnp.asarray(_normal(subject.x, 999)) if _is_floating(subject.x) else subject.x
    arguments = (chosen, leaves, subject.key, x)
    gradient = jax.grad(loss)
    try:
        moves = jax.jit(lambda *given: [jnp.any(leaf != 0) for leaf in gradient(*given)])
        got = jax.device_get(moves.lower(*arguments).compile(hlo.RUN_ONCE)(*arguments))
    except Exception as error:  # noqa: BLE001 - whatever the layer's own code raises
        return verdicts.fail(NAME, f"the gradient can't be taken: {verdicts.words(error)}")
    zero = [num for num, moves in enumerate(got) if not moves]
    if not zero:
        held = ", ".join(_held(subject))
        return verdicts.passed(NAME, f"{_all(trained)} in {held}, and each gets a nonzero gradient")
    jaxpr = jax.make_jaxpr(gradient)(*arguments)
    never = [num for num in zero if not any(flow.read(jaxpr, [num == other for other in range(len(places))]))]
    named = [paths[places[num]] for num in (never or zero)]
    if never:
        detail = f"{_names(named)} can't be trained: the gradient is zero whatever the data"
        return verdicts.fail(NAME, detail, _fix_constant(named), zero_gradient=_texts(named))
    detail = f"{_names(named)} got a zero gradient on random x of shape {list(subject.x.shape)}"
    return verdicts.warn(NAME, detail, f"'input_shape={_larger(subject.x.shape)}'", zero_gradient=_texts(named))


def _larger(shape: Sequence[int]) -> str:
    """A shape with more rows, if one was too few to tell (attention over one element has weight one)."""
    grown = [max(4, 2 * size) for size in shape[:-1]] + list(shape[-1:])
    return "[" + ",".join(map(str, grown)) + "]"


def _noisy(leaf: Any, num: int) -> jax.Array:
    return jnp.asarray(np.asarray(leaf) + (NOISE * _normal(leaf, num)).astype(leaf.dtype))


def _normal(leaf: Any, num: int) -> np.ndarray:
    # NumPy's generator: JAX would compile a program for every shape drawn.
    return np.random.default_rng(num).standard_normal(leaf.shape).astype(leaf.dtype)


def _is_trainable(collection: str) -> bool:
    """Whether a native optimiser trains leaves of it, or would if they were not raw arrays."""
    kind = flow.variable_type(collection)
    return kind is not None and (issubclass(kind, nnx.Param) or _is_raw(collection))


def _is_raw(collection: str) -> bool:
    kind = flow.variable_type(collection)
    return kind is not None and not issubclass(kind, nnx.Variable)


def _all(paths: Sequence[trees.Path]) -> str:
    return "the one trainable leaf is" if len(paths) == 1 else f"all {len(paths)} trainable leaves are"


def _held(subject: Subject) -> list[str]:
    return [name for name in subject.trained if name in subject.shapes]


def _floating(tree: Any) -> list[trees.Path]:
    return [path for path, leaf in trees.flatten(tree) if _is_floating(trees.unbox(leaf))]


def _is_floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _texts(paths: Sequence[trees.Path]) -> list[str]:
    return ["/".join(map(str, path)) for path in paths]


def _names(paths: Sequence[trees.Path]) -> str:
    return listed(_texts(paths))
