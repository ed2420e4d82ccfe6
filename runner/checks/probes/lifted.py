"""Each lift of a layer as two calls that should give the same: the lifted layer, and the plain one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from runner.bridge import lifts, rngs
from runner.bridge.wrap import Bridged
from runner.checks.probes.subject import Subject

NUM = 2

# Lifts that always work with a wrapped layer: where one does not, something is wrong with this layer.
SURE = ("jit", "grad", "jax.vmap", "a name in a host")
REMAT = "nn.remat"
SCAN = "nn.scan over layers"
SHARED, STACKED = "nn.vmap with shared params", "nn.vmap with stacked params"

Call = Callable[[Any, jax.Array, jax.Array], Any]


@dataclass(frozen=True, kw_only=True)
class Lift:
    """One way to lift the layer.

    Attributes:
      run: What the lifted layer gives: `(variables, key, x) -> arrays`, on the variables of the plain call.
      wanted: What it should give.
      host: The Linen module that it makes.
      stacked: Collections that should get a first axis.
      many: Whether that module takes `NUM` inputs.
      alike: Whether both may be one program before XLA sees it; then nothing is compiled.
      drawn: Whether it gives the layer other keys, so that a layer with randomness gives something else.
    """

    run: Call
    wanted: Call
    host: Bridged | None = None
    stacked: tuple[str, ...] = ()
    many: bool = False
    alike: bool = False
    drawn: bool = False


def lifts_of(subject: Subject, plain: Call) -> tuple[dict[str, Lift], dict[str, str]]:
    """The lifts to try, each against `plain`, the layer's `plain_call`; and why others are not asked."""
    model, needs = subject.model, subject.needs
    named, jitted, remat = lifts.named(model), lifts.jitted(model), lifts.remat(model)
    in_host = _hosted(named, subject)
    found = {
        "jit": Lift(run=_hosted(jitted, subject), wanted=in_host, host=jitted, drawn=True),
        "grad": Lift(run=_gradient(plain), wanted=_gradient(in_host), alike=True, drawn=True),
        "jax.vmap": Lift(run=_mapped(plain), wanted=_each(plain)),
        "a name in a host": Lift(run=in_host, wanted=plain, host=named, alike=True, drawn=True),
        REMAT: Lift(run=_gradient(_hosted(remat, subject)), wanted=_gradient(in_host), host=remat),
        SCAN: _scan(subject, plain),
        SHARED: _vmap(subject, plain, stacked=False),
        STACKED: _vmap(subject, plain, stacked=True),
    }
    asked_not = {}
    inputs = [*jax.tree.leaves(subject.shapes), subject.x]
    if not any(_floats(inputs)) or not any(_floats(jax.tree.leaves(needs.output))):
        why = "nothing to differentiate"
        asked_not = {"grad": why, REMAT: why}
    if jax.tree.map(_kind, needs.output) != _kind(subject.x):
        asked_not[SCAN] = "the output is not shaped like x"
    if not _shared(subject):
        asked_not[SHARED] = "no variables to share"
    return {name: lift for name, lift in found.items() if name not in asked_not}, asked_not


def plain_call(subject: Subject) -> Call:
    """Apply as it is, with all that the layer needs: `(variables, key, x) -> (output, updated collections)`."""
    needs = subject.needs

    def run(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        return subject.model.apply(variables, rngs.apply_keys(key, needs.streams), needs.mutable, x)

    return jax.jit(run)  # so that it is traced once, however many lifts it is part of


def _hosted(host: Bridged, subject: Subject) -> Call:
    """The host on the layer's variables, its updates as the layer's own."""
    needs = subject.needs

    def run(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        inner = {collection: {lifts.NAME: tree} for collection, tree in variables.items()}
        output, updates = host.apply(inner, rngs.apply_keys(key, needs.streams), needs.mutable, x)
        return output, {collection: tree.get(lifts.NAME, {}) for collection, tree in updates.items()}

    return jax.jit(run)


def _gradient(call: Call) -> Call:
    """Output, updates, and the gradient by every floating leaf and by x, of a sum with weights that no norm undoes."""

    def run(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        leaves, structure = jax.tree.flatten((variables, x))
        floating = _floats(leaves)

        def loss(given: Any) -> Any:
            values = iter(given)
            tree = [next(values) if one else leaf for leaf, one in zip(leaves, floating, strict=True)]
            variables, x = jax.tree.unflatten(structure, tree)
            output, updates = call(variables, key, x)
            arrays = jax.tree.leaves(output)
            parts = [array for array, one in zip(arrays, _floats(arrays), strict=True) if one]
            weighted = [jnp.sum(part * jnp.cos(jnp.arange(part.size)).reshape(part.shape)) for part in parts]
            return jnp.sum(jnp.stack([part.astype(jnp.float32) for part in weighted])), (output, updates)

        given = [leaf for leaf, one in zip(leaves, floating, strict=True) if one]
        return jax.value_and_grad(loss, has_aux=True)(given)

    return run


def _mapped(call: Call, axis: int | None = None) -> Call:
    """`call` under `jax.vmap` on `NUM` inputs; `axis` 0 maps the variables too."""
    return lambda variables, key, x: jax.vmap(call, (axis, None, 0))(variables, key, two_inputs(x))


def _each(call: Call) -> Call:
    """`call` on each of the `NUM` inputs, one after another."""
    return lambda variables, key, x: _stack([call(variables, key, one) for one in two_inputs(x)])


def _scan(subject: Subject, plain: Call) -> Lift:
    collections = collections_of(subject)
    host = lifts.scan(subject.model, NUM, collections, subject.needs.streams)
    hosted = _hosted(host, subject)

    def run(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        return hosted(_layers(variables), key, x)

    def wanted(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        updates = []
        for num in range(NUM):
            x, update = plain(jax.tree.map(lambda leaf, num=num: leaf[num], _layers(variables)), key, x)
            updates.append(update)
        return x, _stack(updates)

    return Lift(run=run, wanted=wanted, host=host, stacked=collections, drawn=True)


def _vmap(subject: Subject, plain: Call, *, stacked: bool) -> Lift:
    collections = collections_of(subject)
    shared = () if stacked else _shared(subject)
    own = tuple(collection for collection in collections if collection not in shared)
    host = lifts.vmap(subject.model, NUM, shared=shared, stacked=own, streams=subject.needs.streams)
    hosted = _hosted(host, subject)

    def layers(variables: Any) -> Any:
        return {name: _layers(tree) if name in own else tree for name, tree in variables.items()}

    def run(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        return hosted(layers(variables), key, two_inputs(x))

    def wanted(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        axes = {name: 0 if name in own else None for name in variables}
        return jax.vmap(plain, (axes, None, 0))(layers(variables), key, two_inputs(x))

    return Lift(run=run, wanted=wanted, host=host, stacked=own, many=True, drawn=True)


def collections_of(subject: Subject) -> tuple[str, ...]:
    """All collections that the layer has or makes."""
    return tuple(sorted({*subject.needs.variables, *subject.needs.mutable}))


def _shared(subject: Subject) -> tuple[str, ...]:
    """Collections that entries of a batch can share: those that no call changes."""
    return tuple(sorted(set(subject.needs.variables) - set(subject.needs.mutable)))


def two_inputs(x: jax.Array) -> jax.Array:
    """`NUM` inputs, stacked: x, and its numbers in another order."""
    return jnp.stack([x, jnp.flip(x)])


def _layers(variables: Any) -> Any:
    """Variables of `NUM` layers, stacked: the layer's own, and one with other numbers."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 1.25 if _floats([leaf])[0] else leaf]), variables)


def _stack(items: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)


def _floats(leaves: list[Any]) -> list[bool]:
    return [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]


def _kind(leaf: Any) -> tuple[Any, ...]:
    return tuple(leaf.shape), jnp.dtype(leaf.dtype)
