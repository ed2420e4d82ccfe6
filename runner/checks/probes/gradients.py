"""The gradient of every trained leaf, at the variables that init makes and at random ones near them.

One point says little: a head that starts at zero, as in LoRA or a residual branch, hides the gradient of all before it,
and a mask or a counter does at the first step only. So `num_points` are tried, each with another x and other noise on
the trained leaves, and what the call updates is carried from point to point.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.arrays import trees
from runner.checks.probes.subject import Subject
from runner.checks.programs import flow, hlo, shaken

# Scale of the noise that is added to every trained leaf.
NOISE = 0.1

# The algebraic simplifier loses NaN: of `where(y > 0, sqrt(y), 0)` at zero it may make the gradient that was meant,
# which the same code without jit, or inside a larger program, does not have.
AS_WRITTEN: dict[str, Any] = {**hlo.RUN_ONCE, "xla_disable_hlo_passes": "algsimp"}

# The first two are at init's own variables: on the x given, and on a random one.
OWN_POINTS = 2
FEW_POINTS = 4
MANY_POINTS = 12

# Of x, at one point after the other of those that are many: beyond a threshold another weight may count.
X_SCALES = (1, 1, 5, 25)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gradients:
    """What was seen of the gradients of the trained leaves.

    Attributes:
      zero: Paths whose gradient is exactly zero at every point.
      never: Those of `zero` whose gradient reads nothing at all: zero whatever the data.
      behind_zeros: Those of `zero` that get a gradient once arrays of zeros, which the call makes or init, are others.
      cancelled: The other ones of `zero` that get a gradient once values inside are shaken: uses of one weight cancel.
      non_finite: Paths whose gradient is NaN or infinite at init's own variables, though the output is finite.
      x_is_reached: Whether x gets a gradient at some point; None where it is of integers.
      x_is_broken: Whether that of x is NaN or infinite at init's own variables, though the output is finite.
      num_points: How many points were tried.
    """

    zero: list[trees.Path]
    never: list[trees.Path]
    behind_zeros: list[trees.Path]
    cancelled: list[trees.Path]
    non_finite: list[trees.Path]
    x_is_reached: bool | None
    x_is_broken: bool
    num_points: int


class _Probe:
    """The compiled gradient of a subject's trained leaves for one shape of x."""

    def __init__(self, subject: Subject, trained: Sequence[trees.Path], x: Any, *, of_sown: bool = False) -> None:
        self._subject, self._x, self._of_sown = subject, x, of_sown
        self._leaves, self._structure = jax.tree.flatten(subject.variables)
        self.paths = [path for path, _ in trees.flatten(subject.variables)]
        self.places = [place for place, path in enumerate(self.paths) if path in trained]
        self.has_x = all(map(is_inexact, jax.tree.leaves(x)))
        self.x_moves = self.x_breaks = False
        self._gradient = jax.grad(self._loss, has_aux=True)
        self._shaken: Any = None
        arguments = self._arguments(self._leaves, 0)
        self._run = jax.jit(self._seen).lower(*arguments).compile(AS_WRITTEN)

    def points(self, first: int, last: int, leaves: list[Any] | None) -> tuple[np.ndarray, np.ndarray, list[Any]]:
        """Per trained leaf whether its gradient moves it, and whether it is broken at init's own variables.

        The third result is the leaves to go on from, with what the calls have updated.
        """
        leaves = self._leaves if leaves is None else leaves
        moved = np.zeros(len(self.places), bool)
        broken = np.zeros(len(self.places), bool)
        for num in range(first, last):
            moves, breaks, of_x, updated = self._run(*self._arguments(leaves, num))
            moved |= np.asarray(moves, bool)
            broken |= np.asarray(breaks, bool) & (num < OWN_POINTS)
            self.x_moves |= any(map(bool, of_x[0]))
            self.x_breaks |= any(map(bool, of_x[1])) and num < OWN_POINTS
            for place, leaf in updated.items():
                leaves = [*leaves[:place], leaf, *leaves[place + 1 :]]
        return moved, broken, leaves

    def never(self, nums: Sequence[int]) -> list[int]:
        """Those of the trained leaves `nums` whose gradient reads nothing: it is zero whatever the data."""
        jaxpr = jax.make_jaxpr(lambda *given: self._gradient(*given)[0])(*self._arguments(self._leaves, 0))
        return [num for num in nums if not any(flow.read(jaxpr, [num == other for other in range(len(self.places))]))]

    def shaken(self, nums: Sequence[int], *, everything: bool) -> list[int]:
        """Those of the trained leaves `nums` that get a gradient once values inside the call are shaken."""
        arguments = self._arguments(self._leaves, OWN_POINTS)
        if self._shaken is None:
            self._shaken = jax.jit(self._shaken_moves).lower(0.0, *arguments).compile(AS_WRITTEN)
        moves = self._shaken(float(everything), *arguments)
        return [num for num in nums if moves[num]]

    def _shaken_moves(self, everything: Any, chosen: list[Any], leaves: list[Any], key: jax.Array, x: Any) -> list[Any]:
        others = [
            leaf if place in self.places else shaken.zeros_shaken(leaf, place) for place, leaf in enumerate(leaves)
        ]
        closed = jax.make_jaxpr(lambda chosen, x: self._loss(chosen, others, key, x)[0])(chosen, x)
        loss = shaken.shaken(closed)
        gradients = jax.grad(lambda chosen: loss(everything, *chosen, *jax.tree.leaves(x))[0])(chosen)
        return _moves(gradients)

    def _arguments(self, leaves: Sequence[Any], num: int) -> tuple[Any, ...]:
        chosen = [leaves[place] for place in self.places]
        if num >= OWN_POINTS:
            chosen = [noisy(leaf, 1000 * num + place) for leaf, place in zip(chosen, self.places, strict=True)]
        x = self._x if num == 0 else jax.tree.map(lambda leaf: _scaled(drawn_like(leaf, num), num), self._x)
        return chosen, list(leaves), jax.random.fold_in(self._subject.key, num), x

    def _loss(self, chosen: list[Any], leaves: list[Any], key: jax.Array, x: Any) -> Any:
        placed = list(leaves)
        for place, leaf in zip(self.places, chosen, strict=True):
            placed[place] = leaf
        output, updates = self._subject.apply(jax.tree.unflatten(self._structure, placed), key, x)
        if self._of_sown:
            output = output, {name: tree for name, tree in updates.items() if flow.is_sown(str(name))}
        terms = [_term(leaf, num) for num, leaf in enumerate(map(jnp.asarray, jax.tree.leaves(output)))]
        finite = jnp.all(jnp.asarray([jnp.all(jnp.isfinite(term)) for term in terms]))
        return sum(jnp.sum(term) for term in terms), (finite, self._carried(updates))

    def _carried(self, updates: Any) -> dict[int, Any]:
        """The updated leaves by place; what is sown, or has become another kind of leaf, is left behind."""
        found = dict(trees.flatten(trees.unbox(updates)))
        kinds = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(trees.unbox(self._subject.shapes))]
        names = [path for path, _ in trees.flatten(trees.unbox(self._subject.shapes))]
        return {
            place: found[path]
            for place, (path, kind) in enumerate(zip(names, kinds, strict=True))
            if path in found and place not in self.places and (found[path].shape, found[path].dtype) == kind
        }

    def _seen(self, *arguments: Any) -> tuple[list[Any], list[Any], tuple[list[Any], list[Any]], dict[int, Any]]:
        of = (0, 3) if self.has_x else (0,)  # with respect to the trained leaves, and to x
        (gradients, *of_x), (finite, updated) = jax.grad(self._loss, of, has_aux=True)(*arguments)
        breaks = [finite & _is_broken(leaf) for leaf in gradients]
        leaves_of_x = jax.tree.leaves(of_x)
        return (
            _moves(gradients),
            breaks,
            (_moves(leaves_of_x), [finite & _is_broken(one) for one in leaves_of_x]),
            updated,
        )


def of(subject: Subject, trained: Sequence[trees.Path]) -> Gradients:
    """The gradients of the leaves `trained` on x of the subject's shape.

    Raises:
      Exception: Whatever the layer's own code raises when it is differentiated.
    """
    probe = _Probe(subject, trained, subject.x)
    moved, broken, leaves = probe.points(0, FEW_POINTS, None)
    num_points = FEW_POINTS
    if not moved.all():
        more, _, _ = probe.points(FEW_POINTS, MANY_POINTS, leaves)
        moved, num_points = moved | more, MANY_POINTS
    zero = [num for num, moves in enumerate(moved) if not moves]
    never = probe.never(zero) if zero else []
    behind_zeros, cancelled = _alive_if_shaken(probe, zero) if zero else ([], [])

    def named(nums: Sequence[int]) -> list[trees.Path]:
        return [probe.paths[probe.places[num]] for num in nums]

    return Gradients(
        zero=named(zero),
        never=named(never),
        behind_zeros=named(behind_zeros),
        cancelled=named(cancelled),
        non_finite=named([int(num) for num in np.flatnonzero(broken)]),
        x_is_reached=probe.x_moves if probe.has_x else None,
        x_is_broken=probe.x_breaks,
        num_points=num_points,
    )


def _alive_if_shaken(probe: _Probe, zero: list[int]) -> tuple[list[int], list[int]]:
    """Those of the leaves `zero` that get a gradient behind other zeros, and if everything is shaken."""
    try:
        behind_zeros = probe.shaken(zero, everything=False)
        rest = [num for num in zero if num not in behind_zeros]
        return behind_zeros, probe.shaken(rest, everything=True) if rest else []
    except Exception:  # noqa: BLE001 - an equation that runs in its own place only; that all points gave zero is seen
        return [], []


def _scaled(leaf: Any, num: int) -> Any:
    if num < FEW_POINTS or not is_inexact(leaf):
        return leaf
    return leaf * jnp.asarray(X_SCALES[num % len(X_SCALES)], leaf.dtype)


def _moves(gradients: Sequence[Any]) -> list[Any]:
    return [jnp.any((leaf != 0) & ~jnp.isnan(leaf)) for leaf in gradients]


def wider(subject: Subject, zero: Sequence[trees.Path]) -> list[int] | None:
    """A larger shape of x on which every leaf of `zero` gets a gradient; None if there is none.

    One row may be too few to tell: attention over one element has weight one, a batch of one is its own mean.
    """
    if not hasattr(subject.x, "shape") or not subject.x.shape:
        return None
    *sizes, last = subject.x.shape
    shape = [*(max(4, 2 * size) for size in sizes), last]
    try:
        probe = _Probe(subject, zero, jnp.resize(subject.x, tuple(shape)))
        moved, _, _ = probe.points(0, MANY_POINTS, None)
    except Exception:  # noqa: BLE001 - the layer takes no other shape
        return None
    return shape if moved.all() else None


def through_sown(subject: Subject, zero: Sequence[trees.Path]) -> list[trees.Path]:
    """Those of the leaves `zero`, which no output gives a gradient, that get one through what the call sows."""
    if not any(map(flow.is_sown, subject.returned[1])):
        return []
    probe = _Probe(subject, zero, subject.x, of_sown=True)
    moved, _, _ = probe.points(0, MANY_POINTS, None)
    return [probe.paths[place] for place, moves in zip(probe.places, moved, strict=True) if moves]


def noisy(leaf: Any, num: int) -> jax.Array:
    """`leaf` with noise on it, the same for the same `num`."""
    values = np.asarray(leaf)
    return jnp.asarray(values + (NOISE * normal(leaf, num)).astype(values.dtype))


def drawn_like(leaf: Any, num: int) -> jax.Array:
    """A random array of the kind of `leaf`: normal, or integers and truth values from the range that it has."""
    if is_inexact(leaf):
        return jnp.asarray(normal(leaf, num))
    values, generator = np.asarray(leaf), np.random.default_rng(num)
    if not values.size or not np.issubdtype(values.dtype, np.integer):
        return jnp.asarray(leaf)
    return jnp.asarray(generator.integers(values.min(), values.max(), values.shape, values.dtype, endpoint=True))


def normal(leaf: Any, num: int) -> np.ndarray:
    """Normal numbers of the shape and dtype of `leaf`, the same for the same `num`."""
    # NumPy's generator: JAX would compile a program for every shape drawn.
    generator = np.random.default_rng(num)
    values = generator.standard_normal(leaf.shape)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return np.asarray(values + 1j * generator.standard_normal(leaf.shape)).astype(leaf.dtype)
    return np.asarray(values).astype(leaf.dtype)


def is_inexact(leaf: Any) -> bool:
    """Whether `leaf` is of floating-point or complex numbers."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))


def _term(leaf: jax.Array, num: int) -> jax.Array:
    """What an output adds to the loss: its elements, weighted at random; nothing if they are no real numbers."""
    if not is_inexact(leaf):
        return jnp.zeros(())
    # At least float32: the weighted sum of many numbers is none in float16.
    wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    return jnp.real(wide * jnp.asarray(normal(wide, num)))


def _is_broken(leaf: jax.Array) -> jax.Array:
    # float16 overflows where float32 would not: that is the scale of the loss, and no fault of the layer.
    return jnp.any(jnp.isnan(leaf) if leaf.dtype == jnp.float16 else ~jnp.isfinite(leaf))
