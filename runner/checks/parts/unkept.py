"""Variables of a wrapped layer that the host around it doesn't keep; a part of the check `complete`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from runner.arrays import trees
from runner.bridge import lifts
from runner.checks.probes import unwrapped
from runner.checks.probes.subject import Subject
from runner.checks.results import verdicts
from runner.errors import listed
from runner.records.record import Check


def of_host(subject: Subject) -> list[trees.Path]:
    """Paths, collection first, of variables that a layer makes in the host's init and init does not return."""
    if lifts.is_wrapped(subject.model):
        return []
    kept = [tuple(map(str, path)) for path, _ in trees.flatten(trees.unbox(subject.needs.variables))]
    return [
        path
        for name, layer in dict(lifts.wrapped_calls(subject.model, subject.needs.streams, subject.x)).items()
        for path in _variables(layer, tuple(name.split("/")) if name else ())
        if not any(_is_in(path, name, one) for one in kept)
    ]


def fail(check: str, lost: Sequence[trees.Path]) -> Check:
    """The fail of `check` for such variables."""
    names = ["/".join(map(str, path)) for path in lost]
    collections = sorted({str(path[0]) for path in lost})
    detail = (
        f"the host does not keep {listed(names, 5)}: init leaves {'it' if len(names) == 1 else 'them'} out, and every "
        "apply makes them again, so no update or restored value counts"
    )
    axes = ", ".join(f"{name!r}: 0" for name in dict.fromkeys(("params", *collections)))
    fix = f"variable_axes={{{axes}}}  # of the host's nn.scan or nn.vmap: every collection that the layer has"
    return verdicts.fail(check, detail, fix, unkept=names)


def _variables(layer: Any, name: tuple[str, ...]) -> list[trees.Path]:
    construct = unwrapped.constructor(layer)
    if construct is None:
        return []
    state = nnx.state(nnx.eval_shape(lambda: construct({})), nnx.Not(nnx.RngState))
    found: list[Any] = [
        (nnx.variable_name_from_type(type(leaf), allow_register=True), *name, *path)
        for path, leaf in nnx.to_flat_state(state)
        if isinstance(leaf, nnx.Variable) and not isinstance(leaf, nnx.Intermediate) and jax.tree.leaves(leaf)
    ]
    return found


def _is_in(path: trees.Path, name: str, kept: tuple[str, ...]) -> bool:
    """Whether `kept` is the variable at `path`, in the layer's own place or in another, as under `nn.share_scope`."""
    leaf = tuple(map(str, path[1 + len(name.split("/")) * bool(name) :]))
    return kept[0] == str(path[0]) and kept[len(kept) - len(leaf) :] == leaf
