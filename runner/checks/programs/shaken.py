"""A traced function with its inner values shaken: it tells a gradient that is zero here from one that is zero always.

The first state of a recurrent cell is zeros, which hides the gradient of what multiplies it; what a shared layer gives
twice cancels where it is subtracted. With other values inside, both get a gradient. Nothing gives one to what stands
before a stopped gradient, an argmax, a derivative rule that is zero, or a scalar zero that is written in the code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from runner.bridge.tracing import jaxprs
from runner.bridge.tracing.jaxprs import Body, Branches, Call, Loop

SCALE = 0.1


def shaken(closed: Any) -> Callable[..., list[Any]]:
    """The function of a closed jaxpr as `(everything, *inputs) -> outputs`, its values shaken.

    Arrays that depend on no input are shaken where they are zero; with `everything` at 1, and not at 0, all others too.
    """
    body = jaxprs.body_of(closed)

    def run(everything: Any, *inputs: Any) -> list[Any]:
        consts = [zeros_shaken(const, -1 - num) for num, const in enumerate(body.consts)]
        return _Shaking(everything).run(body.jaxpr, consts, inputs, [True] * len(inputs))

    return run


def zeros_shaken(leaf: Any, num: int) -> Any:
    """`leaf` with other numbers for its zeros, the same for the same `num`, if it is an array of inexact numbers."""
    # A scalar zero is written in the code: it is no state.
    if not _is_inexact(leaf) or not jnp.ndim(leaf):
        return leaf
    return jnp.where(leaf == 0, leaf + jnp.abs(_noise(leaf, num)), leaf)


class _Shaking:
    def __init__(self, everything: Any) -> None:
        self._everything, self._num = everything, 0

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], of_inputs: Sequence[bool]) -> list[Any]:
        """What the jaxpr gives, `of_inputs` telling which of `inputs` depend on the inputs of the whole."""
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))
        depends = {var for var, one in zip(jaxpr.invars, of_inputs, strict=True) if one}
        for equation in jaxpr.eqns:
            given = [_read(values, atom) for atom in equation.invars]
            of_input = [not isinstance(atom, core.Literal) and atom in depends for atom in equation.invars]
            outputs = self._evaluate(jaxpr, equation, given, of_input)
            for var, value in zip(equation.outvars, outputs, strict=True):
                values[var] = self._shake(value, of_input=any(of_input))
            depends.update(equation.outvars if any(of_input) else ())
        return [_read(values, atom) for atom in jaxpr.outvars]

    def _evaluate(self, jaxpr: Any, equation: Any, given: list[Any], of_input: list[bool]) -> list[Any]:
        structure = jaxprs.structure_of(equation)
        # A rule for derivatives that is the layer's own is kept: it may be what stops the gradient.
        if isinstance(structure, Call) and not equation.primitive.name.startswith("custom"):
            return self.run(structure.body.jaxpr, structure.body.consts, given, of_input)
        if isinstance(structure, Branches):
            return list(jax.lax.switch(given[0], [self._function(body) for body in structure.bodies], *given[1:]))
        if isinstance(structure, Loop) and structure.test is None:
            return self._scan(structure, equation, given)
        return _alone(jaxpr, equation)(given)

    def _scan(self, loop: Loop, equation: Any, given: list[Any]) -> list[Any]:
        consts, rest = given[: loop.num_consts], given[loop.num_consts :]
        carried, elements = rest[: loop.num_carried], rest[loop.num_carried :]
        one = self._function(loop.body)

        def step(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
            outputs = one(*consts, *carry, *xs)
            return outputs[: loop.num_carried], outputs[loop.num_carried :]

        settings = {key: equation.params[key] for key in ("length", "reverse")}
        last, collected = jax.lax.scan(step, carried, elements, **settings)
        return [*last, *collected]

    def _function(self, body: Body) -> Callable[..., list[Any]]:
        def run(*inputs: Any) -> list[Any]:
            outputs = self.run(body.jaxpr, body.consts, inputs, [True] * len(inputs))
            return [jnp.asarray(one, atom.aval.dtype) for one, atom in zip(outputs, body.jaxpr.outvars, strict=True)]

        return run

    def _shake(self, value: Any, *, of_input: bool) -> Any:
        self._num += 1
        if not of_input or not _is_inexact(value):
            return zeros_shaken(value, self._num)
        noise = _noise(value, self._num) * jnp.asarray(self._everything, value.dtype)
        return jnp.where(value == 0, value + jnp.abs(noise), value * (1 + noise))


def _noise(value: Any, num: int) -> Any:
    """Numbers of about `SCALE`, of the shape and dtype of `value`; others for another `num`."""
    places = jnp.arange(jnp.size(value), dtype=jnp.float32).reshape(jnp.shape(value))
    return (SCALE * jnp.cos(1.7 * places + 0.7 * num)).astype(value.dtype)


def _alone(jaxpr: Any, equation: Any) -> Callable[[list[Any]], list[Any]]:
    """A function that runs one equation of a jaxpr on a value for each of its inputs."""
    places = {atom: num for num, atom in enumerate(equation.invars) if not isinstance(atom, core.Literal)}
    single = jaxpr.replace(
        constvars=[], invars=list(places), outvars=list(equation.outvars), eqns=[equation], effects=equation.effects
    )
    function = core.jaxpr_as_fun(core.ClosedJaxpr(single, []))
    return lambda given: list(function(*(given[num] for num in places.values())))


def _read(values: dict[Any, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, core.Literal) else values[atom]


def _is_inexact(value: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(value), jnp.inexact))
