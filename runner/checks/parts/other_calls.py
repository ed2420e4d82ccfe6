"""Weights that this call has no use for and another one has; a part of the check `trained`.

A layer may have weights for its training mode, for an argument that can be left out, for a loss that it sows, or for
another of its methods. Each such call is traced, and what its output reads is looked up.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from runner.arrays import trees
from runner.bridge import lifts
from runner.bridge.calling.calls import METHOD
from runner.checks.probes.subject import Subject
from runner.checks.programs import flow

GIVEN = "but one does with"


@dataclass(frozen=True, kw_only=True)
class OtherCall:
    """A call that reads what the one at hand doesn't.

    Attributes:
      words: What is said of it.
      typed: What to type for it; None if no config can say it.
      paths: The weights that it reads.
    """

    words: str
    typed: str | None
    paths: list[trees.Path]


def reading(subject: Subject, unread: Sequence[trees.Path]) -> list[OtherCall]:
    """Calls that read some of the weights `unread`, the first one for each."""
    found, left = [], list(unread)
    if sown := read(subject, left, sown=True):
        found.append(OtherCall(words="only what it sows: right as a part of the loss", typed=None, paths=sown))
    for words, typed, call in _others(subject):
        left = [path for path in left if not any(path in one.paths for one in found)]
        if not left:
            break
        other = subject.replaced(model=dataclasses.replace(subject.model, call={**subject.model.call, **call}))
        try:
            paths = read(other, left)
        except Exception:  # noqa: BLE001 - whatever the layer's own code raises when it is called otherwise
            continue
        if paths:
            found.append(OtherCall(words=words, typed=typed, paths=paths))
    return found


def read(subject: Subject, paths: Sequence[trees.Path], *, sown: bool = False) -> list[trees.Path]:
    """Those of the variables `paths` that a floating output reads; or with `sown`, what the call sows."""
    output, updates = subject.returned
    chosen = [not sown and jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(output)]
    for collection, tree in updates.items():
        chosen += [sown and flow.is_sown(str(collection))] * len(jax.tree.leaves(tree))
    names = [path for path, _ in trees.flatten(subject.shapes)]
    is_read = flow.read(subject.applied, chosen)[: len(names)]
    return [path for path, one in zip(names, is_read, strict=True) if path in paths and one]


def _others(subject: Subject) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Other calls of a wrapped layer: in words, as typed, and as arguments."""
    kind = subject.natives[""].kind if lifts.is_wrapped(subject.model) else None
    method = subject.model.call.get(METHOD) or "__call__"
    if kind is None or not isinstance(method, str):
        return
    for name, parameter in list(inspect.signature(getattr(kind, method)).parameters.items())[2:]:
        if name in subject.model.call:
            continue
        if isinstance(parameter.default, bool):
            value = not parameter.default
            yield f"{GIVEN} {name}={value}", f"+layer.call.{name}={str(value).lower()}", {name: value}
        elif parameter.default is None:
            for given in _arrays(subject.x):
                yield f"{GIVEN} an array as {name}", None, {name: given}
    for name in _methods(kind):
        if name != method:
            yield f"but one of the method {name} does", f"layer.nnx_method={name}", {METHOD: name}


def _arrays(x: Any) -> list[jax.Array]:
    """What may be left out of a call: a mask or weight of each element or row, or another input."""
    return [jnp.ones(x.shape[:-1], bool), jnp.ones(x.shape, bool), jnp.ones(x.shape[:-1]), jnp.ones(x.shape)]


def _methods(kind: type) -> list[str]:
    """Methods of the layer's own that can be called with x alone."""
    inherited = set(dir(nnx.Module)) - {"__call__"}
    found = []
    for name in dir(kind):
        function = inspect.getattr_static(kind, name)
        if name in inherited or (name.startswith("_") and name != "__call__") or not inspect.isfunction(function):
            continue
        wanted = [one for one in list(inspect.signature(function).parameters.values())[1:] if one.default is one.empty]
        if len([one for one in wanted if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]) == 1:
            found.append(name)
    return sorted(found, key=lambda name: name != "__call__")
