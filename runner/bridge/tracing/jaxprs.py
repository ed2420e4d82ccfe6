"""Walks jaxprs: how an equation runs the jaxprs inside it, and what an output needs.

How a loop or call is put into an equation differs between versions of JAX, so it is read off the shapes of what goes in
and comes out, which the semantics of each primitive fix. A primitive that isn't recognised is `Opaque`: its outputs may
depend on every input, and its bodies may run in any way.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend import core


@dataclass(frozen=True)
class Body:
    """A jaxpr with its constants.

    Attributes:
      jaxpr: With `invars`, `outvars`, `eqns` and `constvars`.
      consts: A value for each of `constvars`.
    """

    jaxpr: Any
    consts: Sequence[Any]


@dataclass(frozen=True)
class Call:
    """Runs `body` once, on the equation's own inputs: jit, remat, functions with derivatives of their own."""

    body: Body


@dataclass(frozen=True)
class Branches:
    """Runs one of `bodies`, chosen by the first input, on the others."""

    bodies: tuple[Body, ...]


@dataclass(frozen=True)
class Loop:
    """Runs `body` again and again.

    Inputs: `num_tested` constants of `test`, `num_consts` of `body`, what is carried from round to round, and arrays of
    which every round gets an element. Outputs: what is carried, and arrays with an element from every round.

    Attributes:
      body: One round: constants, carried, elements -> carried, elements.
      num_consts: How many inputs each round gets unchanged.
      num_carried: How many values a round hands to the next.
      test: Whether there is another round: its constants, carried -> a boolean; None where the number is fixed.
      num_tested: How many constants `test` has.
      once: Whether there is a single round.
    """

    body: Body
    num_consts: int
    num_carried: int
    test: Body | None = None
    num_tested: int = 0
    once: bool = False


@dataclass(frozen=True)
class Opaque:
    """Runs `bodies` in a way that is not known here; none if the equation has none."""

    bodies: tuple[Body, ...]


Structure = Call | Branches | Loop | Opaque


def body_of(closed: Any) -> Body:
    """What `jax.make_jaxpr` returns, as a body."""
    return Body(getattr(closed, "jaxpr", closed), tuple(getattr(closed, "consts", ())))


def structure_of(equation: Any) -> Structure:
    """How an equation of a jaxpr runs those inside it."""
    bodies = tuple(body_of(one) for value in equation.params.values() for one in _search(value))
    name = equation.primitive.name
    if not bodies:
        return Opaque(tuple(body_of(one) for value in equation.params.values() for one in _hidden(value)))
    if name == "cond" and all(_fits(body, equation.invars[1:], equation.outvars) for body in bodies):
        return Branches(bodies)
    if name == "scan" and len(bodies) == 1:
        return _scan(equation, bodies[0]) or Opaque(bodies)
    if name == "while" and len(bodies) == 2:
        return _while(equation) or Opaque(bodies)
    if (
        name not in ("scan", "while", "cond")
        and len(bodies) == 1
        and _fits(bodies[0], equation.invars, equation.outvars)
    ):
        return Call(bodies[0])
    return Opaque(bodies)


def _fits(body: Body, inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
    return len(body.jaxpr.invars) == len(inputs) and len(body.jaxpr.outvars) == len(outputs)


def _scan(equation: Any, body: Body) -> Loop | None:
    """A scan: what is given or collected element by element has one axis more outside than inside."""
    if not _fits(body, equation.invars, equation.outvars):
        return None
    more_in = [
        _num_axes(outer) > _num_axes(inner) for outer, inner in zip(equation.invars, body.jaxpr.invars, strict=True)
    ]
    more_out = [
        _num_axes(outer) > _num_axes(inner) for outer, inner in zip(equation.outvars, body.jaxpr.outvars, strict=True)
    ]
    num_carried, num_elements = more_out.count(False), more_in.count(True)
    num_consts = len(more_in) - num_elements - num_carried
    in_order = sorted(more_in) == more_in and sorted(more_out) == more_out
    if not in_order or num_consts < 0:
        return None
    return Loop(body, num_consts, num_carried, once=equation.params.get("length") == 1)


def _while(equation: Any) -> Loop | None:
    """A while: everything that comes out is carried; its two bodies take it behind constants of their own."""
    named = {key.partition("_")[0]: body_of(value) for key, value in equation.params.items() if key.endswith("_jaxpr")}
    if named.keys() != {"cond", "body"}:
        return None
    test, body, num_carried = named["cond"], named["body"], len(equation.outvars)
    num_tested, num_consts = len(test.jaxpr.invars) - num_carried, len(body.jaxpr.invars) - num_carried
    if num_tested < 0 or num_consts < 0 or num_tested + num_consts + num_carried != len(equation.invars):
        return None
    if len(body.jaxpr.outvars) != num_carried or len(test.jaxpr.outvars) != 1:
        return None
    return Loop(body, num_consts, num_carried, test, num_tested)


def _num_axes(atom: Any) -> int:
    return len(getattr(atom.aval, "shape", ()))


def _search(value: Any) -> Iterator[Any]:
    """Every jaxpr in a parameter of an equation."""
    if isinstance(value, (core.ClosedJaxpr, core.Jaxpr)):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _search(one)


def _hidden(value: Any) -> Iterator[Any]:
    """Every jaxpr in the attributes of a parameter, as primitives that are objects keep them."""
    if type(value).__module__.partition(".")[0] == "jax":
        yield from _search([one for one in getattr(value, "__dict__", {}).values() if one is not value])


class Liveness:
    """Which equations and inputs of jaxprs are needed for chosen outputs; results are kept, as loops ask again."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, tuple[bool, ...]], tuple[Any, list[tuple[Any, list[bool]]], list[bool]]] = {}

    def equations(self, jaxpr: Any, outputs: Sequence[bool]) -> list[tuple[Any, list[bool]]]:
        """The equations that the chosen outputs need, in order, each with which of its own outputs are needed."""
        return self._of(jaxpr, outputs)[1]

    def inputs(self, jaxpr: Any, outputs: Sequence[bool]) -> list[bool]:
        """Whether each input of `jaxpr` is needed for the chosen outputs."""
        return self._of(jaxpr, outputs)[2]

    def _of(self, jaxpr: Any, outputs: Sequence[bool]) -> tuple[Any, list[tuple[Any, list[bool]]], list[bool]]:
        key = id(jaxpr), tuple(outputs)
        if key not in self._known:
            self._known[key] = (jaxpr, *self._walk(jaxpr, outputs))  # kept, so that its id stays its own
        return self._known[key]

    def _walk(self, jaxpr: Any, outputs: Sequence[bool]) -> tuple[list[tuple[Any, list[bool]]], list[bool]]:
        needed = {atom for atom, one in zip(jaxpr.outvars, outputs, strict=True) if one and _is_var(atom)}
        kept = []
        for equation in reversed(jaxpr.eqns):
            mine = [var in needed for var in equation.outvars]
            if any(mine) or equation.effects:
                kept.append((equation, mine))
                inputs = self._inputs_of(equation, mine)
                needed |= {atom for atom, one in zip(equation.invars, inputs, strict=True) if one and _is_var(atom)}
        return kept[::-1], [var in needed for var in jaxpr.invars]

    def _inputs_of(self, equation: Any, outputs: list[bool]) -> list[bool]:
        match structure_of(equation):
            case Call(body):
                return self.inputs(body.jaxpr, outputs)
            case Branches(bodies):
                return [True, *map(any, zip(*(self.inputs(body.jaxpr, outputs) for body in bodies), strict=True))]
            case Loop() as loop:
                return self._inputs_of_loop(loop, outputs)
        return [True] * len(equation.invars)

    def _inputs_of_loop(self, loop: Loop, outputs: list[bool]) -> list[bool]:
        tested, body = self.of_loop(loop, outputs)
        read = self.inputs(loop.body.jaxpr, body)
        carried = slice(loop.num_consts, loop.num_consts + loop.num_carried)
        # A loop may run no round at all: then what goes in comes out.
        through = [one or two for one, two in zip(read[carried], body[: loop.num_carried], strict=True)]
        return [*tested, *read[: loop.num_consts], *through, *read[loop.num_consts + loop.num_carried :]]

    def of_loop(self, loop: Loop, outputs: Sequence[bool]) -> tuple[list[bool], list[bool]]:
        """Which constants of the test, and which outputs of a round, are needed for the chosen outputs of a loop."""
        needed, tested = list(outputs), []
        if loop.test is not None:
            read = self.inputs(loop.test.jaxpr, [True])
            tested = read[: loop.num_tested]
            needed = [one or two for one, two in zip(needed, read[loop.num_tested :], strict=True)]
        while True:
            read = self.inputs(loop.body.jaxpr, needed)[loop.num_consts :][: loop.num_carried]
            more = [one or two for one, two in zip(needed, read, strict=False)] + needed[loop.num_carried :]
            if more == needed:
                return tested, needed
            needed = more


def is_read(closed: Any, outputs: Sequence[bool]) -> list[bool]:
    """Whether each input of a closed jaxpr is read for the outputs that are chosen, one truth value an output."""
    return Liveness().inputs(body_of(closed).jaxpr, outputs)


def number_of(closed: Any, primitives: Collection[str]) -> int:
    """How many equations of these primitives a closed jaxpr has, in the jaxprs inside it too."""
    return sum(
        (equation.primitive.name in primitives)
        + sum(number_of(one, primitives) for value in equation.params.values() for one in _search(value))
        for equation in body_of(closed).jaxpr.eqns
    )


def largest_bytes(closed: Any) -> int:
    """Bytes of the largest array that any equation of a closed jaxpr makes, in the jaxprs inside it too."""
    largest = 0
    for equation in body_of(closed).jaxpr.eqns:
        inside = [largest_bytes(one) for value in equation.params.values() for one in _search(value)]
        made = [math.prod(var.aval.shape) * var.aval.dtype.itemsize for var in equation.outvars if _num_axes(var)]
        largest = max([largest, *inside, *made])
    return largest


def constants(closed: Any) -> list[Any]:
    """The constants of a closed jaxpr that its outputs depend on."""
    body = body_of(closed)
    equations = Liveness().equations(body.jaxpr, [True] * len(body.jaxpr.outvars))
    read = {atom for equation, _ in equations for atom in equation.invars if _is_var(atom)}
    read |= {atom for atom in body.jaxpr.outvars if _is_var(atom)}
    return [const for var, const in zip(body.jaxpr.constvars, body.consts, strict=True) if var in read]


def changed(closed: Any, outputs: Sequence[int]) -> list[bool]:
    """Whether each of the outputs, by position, is more than an input handed on, also through calls and loops."""
    handed_on = _handed_on(body_of(closed).jaxpr)
    return [(origin := handed_on[num]) is None or not origin.is_same for num in outputs]


@dataclass(frozen=True)
class _Origin:
    """The input that an output is, by position, and the order in which the output has its axes."""

    num: int
    axes: tuple[int, ...]

    @property
    def is_same(self) -> bool:
        return self.axes == tuple(range(len(self.axes)))


def _handed_on(jaxpr: Any) -> list[_Origin | None]:
    """For every output the input that it is; None where it is something else."""
    origin = {var: _Origin(num, tuple(range(_num_axes(var)))) for num, var in enumerate(jaxpr.invars)}
    for equation in jaxpr.eqns:
        for out, kept in zip(equation.outvars, _kept_by(equation), strict=True):
            given = None if kept is None else equation.invars[kept.num]
            if kept is not None and _is_var(given) and given in origin:
                first = origin[given]
                origin[out] = _Origin(first.num, tuple(first.axes[axis] for axis in kept.axes))
    return [origin.get(atom) if _is_var(atom) else None for atom in jaxpr.outvars]


def _kept_by(equation: Any) -> list[_Origin | None]:
    """For every output of an equation the input that it is, or None."""
    name = equation.primitive.name
    if name == "sharding_constraint":
        # On a mesh, unboxing a variable with axis names repeats its sharding, which changes nothing.
        return [_whole(0, equation.outvars[0])]
    if name == "transpose":  # as `nn.scan` does on the way in and out, where its axis is not the first
        return [_Origin(0, tuple(equation.params["permutation"]))]
    match structure_of(equation):
        case Call(body):
            return _handed_on(body.jaxpr)
        case Branches(bodies):
            kept = zip(*(_handed_on(body.jaxpr) for body in bodies), strict=True)
            return [_Origin(1 + one.num, one.axes) if one and {one} == {one, *rest} else None for one, *rest in kept]
        case Loop() as loop:
            return [None if num is None else _whole(num, out) for num, out in _pairs(loop, equation.outvars)]
    return [None] * len(equation.outvars)


def _whole(num: int, atom: Any) -> _Origin:
    return _Origin(num, tuple(range(_num_axes(atom))))


def _pairs(loop: Loop, outputs: Sequence[Any]) -> Iterator[tuple[int | None, Any]]:
    return zip(_kept_by_loop(loop), outputs, strict=True)


def _kept_by_loop(loop: Loop) -> list[int | None]:
    """Of a loop: what every round carries on unchanged, and elements that come out as they went in."""
    last_carried = loop.num_consts + loop.num_carried
    kept: list[int | None] = []
    for place, origin in enumerate(_handed_on(loop.body.jaxpr)):
        num = origin.num if origin and origin.is_same else None
        is_carried = place < loop.num_carried
        same = num is not None and (num == loop.num_consts + place if is_carried else num >= last_carried)
        kept.append(loop.num_tested + num if same and num is not None else None)
    return kept


def _is_var(atom: Any) -> bool:
    return not isinstance(atom, core.Literal)
