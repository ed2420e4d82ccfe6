"""A traced function as one digest: two traces with the same digest are the same text with the same constants."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from runner.checks.programs import traces

_PLAIN = (bool, int, float, str, type(None))


def digest(closed: Any, outputs: Sequence[int] | None = None) -> str:
    """The digest of a closed jaxpr: of its equations, constants and outputs.

    Args:
      closed: The closed jaxpr.
      outputs: Which of its outputs count, by position; None for all.
    """
    return _Walk().closed(closed, outputs)


class _Walk:
    """Names variables by their order. What JAX shares among equations is walked once."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}
        self._avals: dict[int, tuple[Any, str]] = {}

    def closed(self, closed: Any, outputs: Sequence[int] | None = None) -> str:
        """The digest of a jaxpr with its constants."""
        return _hashed([self.jaxpr(closed.jaxpr, outputs), *map(traces.constant_line, closed.consts)])

    def jaxpr(self, jaxpr: Any, outputs: Sequence[int] | None = None) -> str:
        """The digest of a jaxpr alone."""
        if outputs is None and id(jaxpr) in self._known:
            return self._known[id(jaxpr)]
        numbers: dict[Any, int] = {}

        def made(atoms: Iterable[Any]) -> str:
            return " ".join(f"{numbers.setdefault(atom, len(numbers))}:{self._aval(atom.aval)}" for atom in atoms)

        def used(atoms: Iterable[Any]) -> str:
            return " ".join(self._literal(one) if type(one) is core.Literal else str(numbers[one]) for one in atoms)

        parts = [made(jaxpr.constvars), made(jaxpr.invars)]
        for equation in jaxpr.eqns:
            params = equation.params
            said = [f"{name}={self._value(params[name])}" for name in sorted(params)]
            parts.append(f"{made(equation.outvars)}={equation.primitive.name}{said} {used(equation.invars)}")
        parts.append(used(jaxpr.outvars if outputs is None else [jaxpr.outvars[num] for num in outputs]))
        found = _hashed(parts)
        if outputs is None:
            self._known[id(jaxpr)] = found
        return found

    def _aval(self, aval: Any) -> str:
        found = self._avals.get(id(aval))
        if found is None:
            # With the aval, so that no other one gets its id.
            found = self._avals[id(aval)] = aval, aval.str_short(short_dtypes=True)
        return found[1]

    def _literal(self, atom: Any) -> str:
        value = atom.val
        said = repr(value) if isinstance(value, _PLAIN) else traces.constant_line(value)
        return f"{said}:{self._aval(atom.aval)}"

    def _value(self, value: Any) -> str:
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, core.ClosedJaxpr):
            return self.closed(value)
        if isinstance(value, core.Jaxpr):
            return self.jaxpr(value)
        if isinstance(value, (tuple, list)):
            return f"({','.join(map(self._value, value))})"
        if isinstance(value, dict):
            return f"{{{','.join(f'{key}:{self._value(item)}' for key, item in value.items())}}}"
        if isinstance(value, frozenset):
            return str(sorted(map(self._value, value)))
        if isinstance(value, (np.ndarray, jax.Array)):
            return traces.constant_line(value)
        return traces.without_addresses(str(value))


def _hashed(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(errors="surrogatepass"), digest_size=16).hexdigest()
