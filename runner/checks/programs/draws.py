"""The random draws of a traced function: which there are, from which inputs their keys come, and which are equal.

A jaxpr holds `random_seed` where a key is made from a number, and `random_bits` where bits are drawn, for typed keys
and for raw ones (`PRNGKey`) alike. Dead code is dropped, so weights that are drawn and then replaced don't count.
Every value gets a number; values with one number are equal (value numbering). Loops and branches are looked into: what
every round gets unchanged keeps its number there, all else in them equals nothing outside.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax.extend import core

from runner.arrays import trees
from runner.bridge.tracing.jaxprs import Body, Branches, Call, Liveness, Loop, Opaque, body_of, structure_of
from runner.checks.programs import code_lines

DRAWING = frozenset({"random_bits", "random_gamma", "threefry2x32", "rng_bit_generator"})


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One draw of random bits.

    Attributes:
      number: Draws with one number give the same bits.
      shape: Shape of what is drawn.
      sources: Names of the inputs that its key comes from; empty where it comes from none.
      call: The call of `jax.random` that it is part of; those of one call count as one draw.
    """

    number: int
    shape: tuple[int, ...]
    sources: frozenset[str]
    call: RandomCall


@dataclass(frozen=True)
class LoopAround:
    """A loop that a call of `jax.random` is in.

    Attributes:
      id: Tells loops apart.
      lifted: Whether Flax makes it (`nn.scan`, `nnx.scan`, an RNN), where keys are shared because a setting says so.
      elements: Names of the inputs that a round gets an element of.
    """

    id: int
    lifted: bool
    elements: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class RandomCall:
    """One call of `jax.random` from the layer's code, whatever it draws inside.

    Attributes:
      id: Tells calls apart.
      keys: Numbers of the keys that it is given; calls with one key depend on each other.
      line: The line that makes it, e.g. `mine.py:12 in __call__`; None where that is unknown.
      site: Where it is made in the layer's code, and where inside of JAX; equal for a line that is run again.
      branches: The branches that it is in, as (condition, branch), outermost first.
      loops: The loops that make it in every round with the same key.
      one_for_all: Whether its keys are a batch with one key in every row.
      again: Whether it repeats an earlier call for a gradient (`jax.checkpoint`).
    """

    id: int
    keys: tuple[int, ...]
    line: str | None
    site: tuple[Any, Any]
    branches: tuple[tuple[int, int], ...] = ()
    loops: tuple[LoopAround, ...] = ()
    one_for_all: bool = False
    again: bool = False

    def excludes(self, other: RandomCall) -> bool:
        """Whether at most one of the two is made, as they are in two branches of one condition."""
        mine = dict(self.branches)
        return any(mine.get(condition, branch) != branch for condition, branch in other.branches)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What a traced function draws.

    Attributes:
      draws: Every draw that the outputs depend on.
      used: Names of the inputs that the outputs depend on.
      made_up: For every key made from a constant, the line of the code that makes it, e.g. `mine.py:12 in __call__`;
        None where the bridge makes it, or it is unknown.
      outputs: For every output, ids of the calls of `jax.random` that it depends on.
      sources: For every output, names of the inputs that it depends on.
    """

    draws: tuple[Draw, ...]
    used: frozenset[str]
    made_up: tuple[str | None, ...]
    outputs: tuple[frozenset[int], ...] = ()
    sources: tuple[frozenset[str], ...] = ()

    @property
    def invented(self) -> bool:
        """Whether anything is drawn, or a key is made, without an input to come from."""
        return bool(self.made_up) or any(not draw.sources for draw in self.draws)


@dataclass(frozen=True)
class _Value:
    """A value: its number, names it comes from, loops that it changes in, calls it depends on.

    `row` is what each element along its first axis equals, if they are all the same.
    """

    number: int
    sources: frozenset[str] = frozenset()
    loops: frozenset[int] = frozenset()
    calls: frozenset[int] = frozenset()
    row: _Value | None = None


def find(traced: Any, names: Sequence[str], parts: Mapping[str, Any] | None = None) -> Draws:
    """The random draws of a traced function.

    Args:
      traced: A closed jaxpr.
      names: A name for every input of it, as `sources` are to spell it.
      parts: Closed jaxprs of the same inputs; a value that one of them computes is a source under that name.
    """
    flow = _Flow()
    inputs = [flow.fresh(_Value(0, frozenset({name}))) for name in names]
    for name, part in (parts or {}).items():
        (value,) = _Flow(flow).run(body_of(part), inputs)
        flow.named[value.number] = frozenset({name})
    outputs = flow.run(body_of(traced), inputs)
    return Draws(
        draws=tuple(flow.draws),
        used=_merged(outputs).sources,
        made_up=tuple(flow.made_up),
        outputs=tuple(value.calls for value in outputs),
        sources=tuple(value.sources for value in outputs),
    )


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
        self._unwrapped: dict[int, int] = other._unwrapped if other else {}
        self._live: Liveness = other._live if other else Liveness()
        # Where the walk is: the call of jax.random, the loops and branches, and what is repeated for a gradient.
        self._call: RandomCall | None = other._call if other else None
        self._loops: tuple[LoopAround, ...] = other._loops if other else ()
        self._branches: tuple[tuple[int, int], ...] = other._branches if other else ()
        self._again: bool = other._again if other else False

    def fresh(self, like: _Value) -> _Value:
        """A value that comes from where `like` does and equals no other."""
        return replace(like, number=next(self._count), row=None)

    def run(self, body: Body, inputs: Sequence[_Value], needed: Sequence[bool] | None = None) -> list[_Value]:
        """The outputs of `body` on `inputs`; what it draws for those that are needed is kept."""
        jaxpr = body.jaxpr
        # Constants live as long as their jaxpr, so an id names one.
        values = {
            var: _Value(self._number(("const", id(const))))
            for var, const in zip(jaxpr.constvars, body.consts, strict=True)
        }
        values.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> _Value:
            if isinstance(atom, core.Literal):
                return _Value(self._number(("literal", str(atom.aval), repr(atom.val))))
            return values.get(atom) or _Value(-1)  # what nothing needs is not computed

        chosen = [True] * len(jaxpr.outvars) if needed is None else needed
        for equation, outputs in self._live.equations(jaxpr, chosen):
            results = self._equation(equation, [read(atom) for atom in equation.invars], outputs)
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[_Value], needed: list[bool]) -> list[_Value]:
        structure, before = structure_of(equation), (self._call, self._again)
        self._again = before[1] or bool(equation.params.get("differentiated"))
        if self._call is None and (equation.primitive.name in DRAWING or structure != Opaque(())):
            self._call = self._random_call(equation, inputs)
        try:
            match structure:
                case Call(body):
                    return self.run(body, self._passed(body, equation, inputs), needed)
                case Branches(bodies):
                    return self._branch(bodies, inputs, needed)
                case Loop() as loop:
                    return self._loop(loop, inputs, needed, lifted=code_lines.in_lifted(equation))
                case Opaque(bodies):
                    for body in bodies:
                        self.run(body, [self.fresh(_merged(inputs)) for _ in body.jaxpr.invars])
            return self._plain(equation, inputs)
        finally:
            self._call, self._again = before

    def _random_call(self, equation: Any, inputs: list[_Value]) -> RandomCall | None:
        """The call of `jax.random` that begins with this equation, if one does."""
        if equation.primitive.name in DRAWING:
            # Of threefry both halves of the key come first; of the others the key is one value.
            keys = inputs[: 2 if equation.primitive.name == "threefry2x32" else 1]
        else:
            keys = [value for value, atom in zip(inputs, equation.invars, strict=True) if trees.is_key(atom.aval)]
            if not keys or not code_lines.in_jax_random(equation):
                return None
        changes = _merged(keys).loops
        return RandomCall(
            id=next(self._count),
            keys=tuple(value.number for value in keys),
            line=code_lines.line_of(equation),
            site=code_lines.call_site(equation),
            branches=self._branches,
            loops=tuple(loop for loop in self._loops if loop.id not in changes),
            one_for_all=any(key.row for key in keys),
            again=self._again,
        )

    def _plain(self, equation: Any, inputs: list[_Value]) -> list[_Value]:
        name, merged = equation.primitive.name, _merged(inputs)
        params = tuple(sorted((key, _hashable(value)) for key, value in equation.params.items()))
        seen = (name, params, tuple(value.number for value in inputs))
        results = []
        for index in range(len(equation.outvars)):
            number = next(self._count) if equation.effects else self._number((seen, index))
            if name == "random_wrap":  # a key that is made of the data of one is that key
                number = self._unwrapped.get(inputs[0].number, number)
            results.append(replace(merged, number=number, sources=self.named.get(number, merged.sources)))
        if name == "random_unwrap":
            self._unwrapped[results[0].number] = inputs[0].number
        if name == "random_seed" and not merged.sources:
            self.made_up.append(code_lines.origin(equation))
        if name in DRAWING and self._call is not None:
            self._drawn(equation, inputs, results[-1].number)
            results = [replace(one, calls=one.calls | {self._call.id}) for one in results]
        if name == "broadcast_in_dim" and 0 not in equation.params["broadcast_dimensions"] and equation.invars:
            return [replace(results[0], row=self._row(equation, inputs[0]))]
        return results

    def _drawn(self, equation: Any, inputs: list[_Value], number: int) -> None:
        assert self._call is not None
        sources = _merged(inputs[: 2 if equation.primitive.name == "threefry2x32" else 1]).sources
        shape = tuple(equation.outvars[-1].aval.shape)
        self.draws.append(Draw(number=number, shape=shape, sources=sources, call=self._call))

    def _row(self, equation: Any, value: _Value) -> _Value:
        """What each element of a broadcast equals."""
        if len(equation.outvars[0].aval.shape) == len(equation.invars[0].aval.shape) + 1:
            return value
        return replace(value, number=self._number(("row", value.number, equation.outvars[0].aval.shape)))

    def _passed(self, body: Body, equation: Any, inputs: Sequence[_Value]) -> list[_Value]:
        """What a body gets: an input, or a part of it where the equation splits it over devices."""
        pairs = zip(inputs, equation.invars, body.jaxpr.invars, strict=True)
        return [
            value if getattr(outer.aval, "shape", ()) == getattr(inner.aval, "shape", ()) else self.fresh(value)
            for value, outer, inner in pairs
        ]

    def _branch(self, bodies: Sequence[Body], inputs: list[_Value], needed: list[bool]) -> list[_Value]:
        """The outputs of a condition: what any branch comes from, numbers of their own."""
        before, condition = self._branches, next(self._count)
        outputs = [[inputs[0]] for _ in needed]
        for num, body in enumerate(bodies):
            self._branches = (*before, (condition, num))
            for found, value in zip(outputs, self.run(body, inputs[1:], needed), strict=True):
                found.append(value)
        self._branches = before
        return [self.fresh(_merged(found)) for found in outputs]

    def _loop(self, loop: Loop, inputs: list[_Value], needed: list[bool], *, lifted: bool) -> list[_Value]:
        """The outputs of a loop: what they come from as it flows from round to round, numbers of their own."""
        before, this, num = self._loops, next(self._count), loop.num_carried
        tested, rest = inputs[: loop.num_tested], inputs[loop.num_tested :]
        consts, carried = rest[: loop.num_consts], rest[loop.num_consts :][:num]
        elements = [self._element(value, this) for value in rest[loop.num_consts + num :]]
        wanted = self._live.of_loop(loop, needed)[1]
        if not loop.once:
            apart = _merged(rest[loop.num_consts + num :]).sources
            self._loops = (*before, LoopAround(this, lifted, apart))
        rounds = [replace(self.fresh(value), loops=value.loops | {this}) for value in carried]
        while True:  # what is carried may come from more inputs in the next round; these rounds keep no draws
            after = _Flow(self).run(loop.body, [*consts, *rounds, *elements], wanted)[:num]
            more = [replace(one, sources=one.sources | two.sources) for one, two in zip(rounds, after, strict=True)]
            if more == rounds:
                break
            rounds = more
        kept = [
            value if one.number == two.number else one for value, one, two in zip(carried, rounds, after, strict=True)
        ]
        ended = [] if loop.test is None else self.run(loop.test, [*tested, *kept])
        outputs = self.run(loop.body, [*consts, *kept, *elements], wanted)
        self._loops = before
        # A loop may run no round at all: then what goes in comes out.
        outputs = [_merged([*pair, *ended]) for pair in zip(carried, outputs[:num], strict=True)] + outputs[num:]
        return [replace(self.fresh(one), loops=one.loops - {this}) for one in outputs]

    def _element(self, value: _Value, loop: int) -> _Value:
        """What a round gets of an array, which is the same in each where all elements are equal."""
        return value.row or replace(self.fresh(value), loops=value.loops | {loop})

    def _number(self, key: Any) -> int:
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = next(self._count)
        return found


def _merged(values: Iterable[_Value]) -> _Value:
    """What comes from all of `values`; its number is none."""
    values = list(values)
    return _Value(
        -1,
        frozenset().union(*(value.sources for value in values)),
        frozenset().union(*(value.loops for value in values)),
        frozenset().union(*(value.calls for value in values)),
    )


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, tuple, type(None))) and _hashes(value) else id(value)


def _hashes(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
