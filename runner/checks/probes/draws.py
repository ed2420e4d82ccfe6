"""The random draws of a traced function: which there are, from which inputs their keys come, and which are equal.

A jaxpr holds `random_seed` where a key is made from a number, and `random_bits` where bits are drawn, for typed keys
and for raw ones (`PRNGKey`) alike. Dead code is dropped first, so weights that are drawn and then replaced don't count.
Every value gets a number; values with one number are equal (value numbering). The bodies of loops and branches are
looked into, but nothing in them is held to be equal to anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax
import jax
from jax.extend import core
from jax.interpreters import partial_eval

DRAWING = frozenset({"random_bits", "random_gamma", "threefry2x32", "rng_bit_generator"})

# Their bodies run more than once, or perhaps not at all.
LOOPS = frozenset({"scan", "while", "cond"})

_PACKAGES = tuple(str(Path(str(package.__file__)).parent) for package in (jax, flax))
_BRIDGE = str(Path(str(flax.__file__)).parent / "nnx" / "bridge")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One draw of random bits.

    Attributes:
      number: Draws with one number give the same bits.
      shape: Shape of what is drawn.
      sources: Names of the inputs that its key comes from; empty where it comes from none.
    """

    number: int
    shape: tuple[int, ...]
    sources: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What a traced function draws.

    Attributes:
      draws: Every draw that the outputs depend on.
      used: Names of the inputs that the outputs depend on.
      made_up: For every key made from a constant, the line of the code that makes it, e.g. `mine.py:12 in __call__`;
        None where the bridge makes it, or it is unknown.
      outputs: For every output, the names of the inputs that it depends on.
    """

    draws: tuple[Draw, ...]
    used: frozenset[str]
    made_up: tuple[str | None, ...]
    outputs: tuple[frozenset[str], ...]

    @property
    def invented(self) -> bool:
        """Whether anything is drawn, or a key is made, without an input to come from."""
        return bool(self.made_up) or any(not draw.sources for draw in self.draws)


@dataclass(frozen=True)
class _Value:
    number: int
    sources: frozenset[str]


def find(traced: Any, names: Sequence[str], parts: Mapping[str, Any] | None = None) -> Draws:
    """The random draws of a traced function.

    Args:
      traced: A closed jaxpr.
      names: A name for every input of it, as `sources` are to spell it.
      parts: Closed jaxprs of the same inputs; a value that one of them computes is a source under that name.
    """
    live, _ = partial_eval.dce_jaxpr(traced.jaxpr, True, instantiate=True)
    flow = _Flow()
    inputs = [flow.fresh(frozenset({name})) for name in names]
    for name, part in (parts or {}).items():
        (value,) = _Flow(flow).closed(part.jaxpr, part.consts, inputs)
        flow.named[value.number] = frozenset({name})
    outputs = flow.closed(live, traced.consts, inputs)
    sources = tuple(value.sources for value in outputs)
    used = frozenset[str]().union(*sources)
    return Draws(draws=tuple(flow.draws), used=used, made_up=tuple(flow.made_up), outputs=sources)


class _Flow:
    """Numbers and sources of the values of a jaxpr.

    Args:
      other: Its numbers go on, what it has drawn is not taken over.
    """

    def __init__(self, other: _Flow | None = None) -> None:
        self.draws: list[Draw] = []
        self.made_up: list[str | None] = []
        self.named: dict[int, frozenset[str]] = other.named if other else {}
        self._numbers: dict[Any, int] = other._numbers if other else {}
        self._count: Iterator[int] = other._count if other else itertools.count()

    def fresh(self, sources: frozenset[str]) -> _Value:
        """A value that equals no other."""
        return _Value(next(self._count), sources)

    def closed(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[_Value]) -> list[_Value]:
        """The outputs of `jaxpr` on `inputs`; what it draws on the way is kept."""
        values: dict[Any, _Value] = {}
        # Constants live as long as their jaxpr, so an id names one.
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            values[var] = _Value(self._number(("const", id(const))), frozenset())
        values.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> _Value:
            if not isinstance(atom, core.Literal):
                return values[atom]
            return _Value(self._number(("literal", str(atom.aval), repr(atom.val))), frozenset())

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[_Value]) -> list[_Value]:
        name = equation.primitive.name
        if name in LOOPS:
            return self._branch(equation, inputs) if name == "cond" else self._loop(equation, inputs)
        bodies = _bodies(equation)
        if len(bodies) == 1 and _fits(bodies[0][0], equation):
            return self.closed(*bodies[0], inputs)
        sources = frozenset().union(*(value.sources for value in inputs))
        for body, consts in bodies:  # one that is called in a way that is not known here
            self.closed(body, consts, [self.fresh(sources) for _ in body.invars])
        results = self._plain(equation, inputs, sources)
        if name == "random_seed" and not sources:
            self.made_up.append(_origin(equation))
        if name in DRAWING:
            # Of threefry both halves of the key come first; of the others the key is one value.
            key = inputs[:2] if name == "threefry2x32" else inputs[:1]
            came_from = frozenset().union(*(value.sources for value in key))
            shape = tuple(equation.outvars[-1].aval.shape)
            self.draws.append(Draw(number=results[-1].number, shape=shape, sources=came_from))
        return results

    def _plain(self, equation: Any, inputs: list[_Value], sources: frozenset[str]) -> list[_Value]:
        params = tuple(sorted((key, _hashable(value)) for key, value in equation.params.items()))
        seen = (equation.primitive.name, params, tuple(value.number for value in inputs))
        results = []
        for index in range(len(equation.outvars)):
            number = next(self._count) if equation.effects else self._number((seen, index))
            results.append(_Value(number, self.named.get(number, sources)))
        return results

    def _branch(self, equation: Any, inputs: list[_Value]) -> list[_Value]:
        """The outputs of a cond: sources of any branch, numbers of their own."""
        chosen, *operands = [value.sources for value in inputs]
        outputs = [chosen for _ in equation.outvars]
        for branch in equation.params["branches"]:
            outputs = _union(outputs, self._body(branch, operands))
        return [self.fresh(sources) for sources in outputs]

    def _loop(self, equation: Any, inputs: list[_Value]) -> list[_Value]:
        """The outputs of a scan or while: sources as they flow from round to round, numbers of their own."""
        params, sources = equation.params, [value.sources for value in inputs]
        scan = equation.primitive.name == "scan"
        num_tested = 0 if scan else params["cond_nconsts"]
        num_consts = params["num_consts"] if scan else params["body_nconsts"]
        body = params["jaxpr"] if scan else params["body_jaxpr"]
        tested, consts, rest = (
            sources[:num_tested],
            sources[num_tested:][:num_consts],
            sources[num_tested + num_consts :],
        )
        num_carry = params["num_carry"] if scan else len(rest)
        carried, others = rest[:num_carry], rest[num_carry:]
        # What is carried may come from more inputs in the next round; these rounds keep no draws.
        while (more := _union(carried, _Flow(self)._body(body, [*consts, *carried, *others])[:num_carry])) != carried:
            carried = more
        if not scan:
            self._body(params["cond_jaxpr"], [*tested, *carried])
        outputs = self._body(body, [*consts, *carried, *others])
        # A loop may run no round at all: then what goes in comes out.
        return [self.fresh(one) for one in [*_union(carried, outputs[:num_carry]), *outputs[num_carry:]]]

    def _body(self, body: Any, sources: Sequence[frozenset[str]]) -> list[frozenset[str]]:
        outputs = self.closed(body.jaxpr, body.consts, [self.fresh(one) for one in sources])
        return [value.sources for value in outputs]

    def _number(self, key: Any) -> int:
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = next(self._count)
        return found


def _bodies(equation: Any) -> list[tuple[Any, Sequence[Any]]]:
    """The jaxprs that the equation holds, each with its constants."""
    params = [one for value in equation.params.values() for one in (value if isinstance(value, tuple) else (value,))]
    closed = [(one.jaxpr, one.consts) for one in params if isinstance(one, core.ClosedJaxpr)]
    return closed + [(one, ()) for one in params if isinstance(one, core.Jaxpr)]


def _fits(body: Any, equation: Any) -> bool:
    """Whether the equation calls `body` with its own inputs, as jit, remat and custom derivatives do."""
    return len(body.invars) == len(equation.invars) and len(body.outvars) == len(equation.outvars)


def _union(first: Sequence[frozenset[str]], second: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    return [one | two for one, two in zip(first, second, strict=True)]


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, tuple, type(None))) and _hashes(value) else id(value)


def _hashes(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _origin(equation: Any) -> str | None:
    """The line outside of JAX and Flax that made a key; None where that is the bridge's own fallback."""
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if frame.file_name.startswith(_BRIDGE):
            return None
        if not frame.file_name.startswith(_PACKAGES):
            return f"{Path(frame.file_name).name}:{frame.line_num} in {frame.function_name}"
    return None
