"""Check 6, seeded: init's random leaves come from the key that it is given, and stacked layers start different.

A layer that seeds itself starts from the same weights whatever the seed, so a sweep over seeds measures one run several
times. Linen layers can't: they draw from their scope. Constants that are meant (scales, zeros, identities, tables) are
no random leaves: a leaf is random if a generator made it, in init or when a module was imported. Where none is seen,
numbers that look drawn may be those of a formula or a file, and are a warn.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from runner.arrays import trees
from runner.bridge import wrap
from runner.bridge.rngs import PARAMS
from runner.checks.parts import equal_starts
from runner.checks.probes.randomness import equal_slices, looks_random
from runner.checks.probes.subject import Subject
from runner.checks.programs import draws
from runner.checks.results import verdicts
from runner.checks.user_code import drawn_at_import, other_seeds
from runner.errors import listed
from runner.records.record import Check

NAME = "seeded"
MAX_NAMED = 5
KEY = "the root key"

_FROM_RNGS = "self.w = nnx.Param(initializer(rngs.params(), shape))  # draw from the rngs that the constructor gets"
_SPLIT = """\
nn.scan(Body, variable_axes={'params': 0}, split_rngs={'params': True}, length=n)  # of nn.vmap too
@nnx.split_rngs(splits=n)  # above @nnx.vmap or @nnx.scan: a key for each"""


_EACH = "nnx.List([make(rngs=rngs) for _ in range(n)])  # made each, in place of nnx.clone or deepcopy of one"


def check(subject: Subject, *, full: bool) -> Check:
    """Whether init's random leaves depend on its key; `full` changes nothing."""
    del full
    if subject.given is not None:
        return verdicts.passed(NAME, "the variables are given: init draws none of them")
    leaves = trees.flatten(trees.unbox(subject.init_variables))
    live = _live(subject)
    deaf, irregular = _deaf(subject, [(path, leaf) for path, leaf in leaves if path not in live])
    weights = [path for path in deaf if _is_weight(subject, path)]
    follows = _following(subject, [*weights, *irregular]) if weights or irregular else []
    irregular = [path for path in irregular if path not in follows]
    lost, (equal, meant) = [path for path in weights if path not in follows], _equal(subject, leaves, live)
    started = {path: leaf for path, leaf in leaves if path in live and _is_weight(subject, path)}
    numbered, copied = equal_starts.copies(started)
    evidence: dict[str, Any] = {"from_the_key": len(live), "deaf": trees.spell_each(deaf), "equal_slices": equal}
    evidence["copies"] = [*numbered, *copied]
    if lost or equal or numbered:
        parts = [_lost(subject, lost)] if lost else []
        parts += [f"{listed(equal, MAX_NAMED)}: layers of a stack start from the same random values"] if equal else []
        parts += [f"{one} start equal: they are copies of one module"] if (one := "; ".join(numbered)) else []
        fixes = [*([_fix(subject)] if lost else []), *([_SPLIT] if equal else []), *([_EACH] if numbered else [])]
        return verdicts.fail(NAME, "; ".join(parts), "\n".join(fixes), **evidence)
    if others := [path for path in deaf if path not in weights]:
        detail = f"{_names(others)} {'is' if len(others) == 1 else 'are'} random and the same for every seed"
        return verdicts.warn(NAME, detail, _FROM_RNGS.replace("Param", "Variable"), **evidence)
    if copied:
        detail = f"{'; '.join(copied)} start equal: right only where one is meant to start as a copy of the other"
        return verdicts.warn(NAME, detail, _EACH, **evidence)
    if meant:
        detail = f"{listed(meant, MAX_NAMED)}: right where something tells them apart, as a router does"
        return verdicts.warn(NAME, detail, **evidence)
    if irregular:
        return verdicts.warn(NAME, _unexplained(irregular), _FROM_RNGS, **evidence)
    return verdicts.passed(NAME, _held(subject, follows, len(live), len(leaves)), **evidence)


def _held(subject: Subject, follows: Sequence[trees.Path], num_live: int, num_leaves: int) -> str:
    if follows:
        return f"{_names(follows)} {'follows' if len(follows) == 1 else 'follow'} the seed by {_bound(subject)}"
    if not num_live:
        return "init draws nothing: no leaf is random"
    others = num_leaves - num_live
    rest = f", {others} {'is a constant' if others == 1 else 'are constants'}" if others else ""
    return f"{num_live} of {num_leaves} leaves depend on the key that init is given{rest}"


def _lost(subject: Subject, lost: Sequence[trees.Path]) -> str:
    """Which weights are deaf to the seed, and the lines that make the keys which they come from."""
    traced = _traced(subject, lost)
    where = sorted({line for line in traced.made_up if line})
    where = where or ([] if traced.draws else drawn_at_import.of(subject))
    at = f" ({listed(where, MAX_NAMED)})" if where else ""
    does, its = ("does", "its") if len(lost) == 1 else ("do", "their")
    return (
        f"{_names(lost)} {does} not depend on the seed: init makes {its} random values"
        f" without the key that it is given{at}, so every seed starts from the same ones"
    )


def _unexplained(paths: Sequence[trees.Path]) -> str:
    looks, it, is_ = ("looks", "it", "is") if len(paths) == 1 else ("look", "them", "are")
    return (
        f"{_names(paths)} {looks} random and {is_} the same for every seed, though no generator is seen:"
        f" right only where a formula or a file gives {it}"
    )


def _live(subject: Subject) -> set[trees.Path]:
    """Which of the leaves of init depend on its key, by its jaxpr."""
    return {path for path, sources in zip(_paths(subject), subject.init_draws.sources, strict=True) if KEY in sources}


def _drawn(subject: Subject) -> set[trees.Path]:
    """Which of the leaves of init depend on something drawn."""
    return {path for path, calls in zip(_paths(subject), subject.init_draws.outputs, strict=True) if calls}


def _paths(subject: Subject) -> list[trees.Path]:
    return [path for path, _ in trees.flatten(trees.unbox(subject.needs.variables))]


def _traced(subject: Subject, paths: Sequence[trees.Path]) -> draws.Draws:
    """What init draws for these leaves."""
    init = functools.partial(_leaves, subject.model, subject.needs.streams, paths)
    return draws.find(jax.make_jaxpr(init)(subject.key, trees.shapes(subject.x)), [KEY, "its input"])


def _deaf(subject: Subject, dead: Sequence[tuple[trees.Path, Any]]) -> tuple[list[trees.Path], list[trees.Path]]:
    """The random ones among leaves that do not depend on the key, and weights that look so though no generator is seen.

    The others are constants that are meant.
    """
    varied = [(path, _numbers(leaf)) for path, leaf in dead if isinstance(leaf, jax.Array) and leaf.size > 1]
    varied = [(path, array) for path, array in varied if (array != array.flat[0]).any()]
    drawn = _drawn(subject)
    found = [path for path, _ in varied if path in drawn]
    rest = [path for path, _ in varied if path not in found]
    found += _of_own_seed(subject, rest) if rest else []
    irregular = [path for path, array in varied if path not in found and looks_random(array)]
    if irregular and drawn_at_import.of(subject):
        return found + irregular, []
    return found, [path for path in irregular if _is_weight(subject, path)]


def _of_own_seed(subject: Subject, paths: Sequence[trees.Path]) -> list[trees.Path]:
    """Those of the leaves that are others once the layer's own generators get another seed."""
    try:
        with other_seeds.given() as asked:
            subject.trace_init()
        if not asked:
            return []
        with other_seeds.given():
            return _changed(subject, subject.model, paths)
    except Exception:  # noqa: BLE001 - a layer may refuse another seed
        return []


def _numbers(leaf: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if trees.is_key(leaf) else leaf)


def _equal(
    subject: Subject, leaves: Sequence[tuple[trees.Path, Any]], live: set[trees.Path]
) -> tuple[list[str], list[str]]:
    """Random leaves whose slices along one axis are equal, each with the axis; apart those that the code copies."""
    found, meant, others = list[str](), list[str](), {}
    places = {path: place for place, path in enumerate(_paths(subject))}
    for path, leaf in leaves:
        if path in live and isinstance(leaf, jax.Array) and leaf.ndim > 1:
            array = others[path] = _numbers(leaf)
            axis = equal_slices(array)
            if axis is not None:
                words = f"{'/'.join(map(str, path))} is the same {leaf.shape[axis]} times along axis {axis}"
                copied = equal_starts.copied_by(subject.initialised, places[path])
                (meant if copied else found).append(f"{words}, by jnp.{copied}" if copied else words)
                del others[path]
    calls = dict(zip(_paths(subject), subject.init_draws.outputs, strict=True))
    return found + equal_starts.in_part(others, calls, subject.init_draws), meant


def _is_weight(subject: Subject, path: trees.Path) -> bool:
    collection = str(path[0])
    return collection in subject.trained or collection == PARAMS or collection.endswith("Param")


def _following(subject: Subject, weights: Sequence[trees.Path]) -> list[trees.Path]:
    """Leaves that change with the seed because an argument of the constructor is bound to it."""
    if subject.reseeded is None:
        return []
    return _changed(subject, subject.reseeded(), weights)


def _changed(subject: Subject, model: Any, paths: Sequence[trees.Path]) -> list[trees.Path]:
    """Those of the leaves that another model's init gives other values."""
    made = subject.jit(functools.partial(_leaves, model, subject.needs.streams, paths))(subject.key, subject.x)
    before = dict(trees.flatten(trees.unbox(subject.init_variables)))
    return [path for path, leaf in zip(paths, made, strict=True) if (_numbers(leaf) != _numbers(before[path])).any()]


def _leaves(model: Any, streams: Any, paths: Sequence[trees.Path], key: jax.Array, x: jax.Array) -> list[Any]:
    made = dict(trees.flatten(trees.unbox(model.init(key, streams, x))))
    return [made[path] for path in paths]


def _fix(subject: Subject) -> str:
    """The seed's own argument, if the constructor has one, else where to draw from."""
    names = wrap.seed_arguments(subject.layer.model) if subject.layer is not None else []
    return "\n".join([*(f"'layer.kwargs.{name}=${{seed}}'" for name in names), *([] if names else [_FROM_RNGS])])


def _bound(subject: Subject) -> str:
    names = wrap.seed_arguments(subject.layer.model) if subject.layer is not None else []
    return f"the argument {listed(names)}" if names else "an argument of the constructor"


def _names(paths: Sequence[trees.Path]) -> str:
    return listed(trees.spell_each(paths), MAX_NAMED)
