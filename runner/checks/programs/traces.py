"""A traced function as text with its constants, so that two traces can be compared; and the callbacks in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+|\b0x[0-9a-f]{6,}")

# `jax.debug.print` and `jax.debug.callback` give nothing back.
_GIVES_NOTHING = "debug"


def lines(closed: Any) -> list[str]:
    """A closed jaxpr line by line, without addresses, and a line with the digest of every constant baked into it."""
    text = without_addresses(closed.jaxpr.pretty_print(use_color=False, source_info=False))
    return [*text.splitlines(), *map(constant_line, _constants(closed))]


def without_addresses(text: str) -> str:
    """`text` with no address of an object in it, as those differ from trace to trace."""
    return _ADDRESS.sub("at …", text) if "0x" in text else text


def callbacks(closed: Any) -> list[str]:
    """The names of the primitives that call Python and use what it gives back, in order."""
    names = (equation.primitive.name for jaxpr in _nested(closed) for equation in jaxpr.eqns)
    return [name for name in names if "callback" in name and _GIVES_NOTHING not in name]


def _constants(closed: Any) -> Iterator[Any]:
    yield from closed.consts
    for jaxpr in _nested(closed):
        for equation in jaxpr.eqns:
            for found in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda node: hasattr(node, "eqns")):
                if hasattr(found, "consts"):
                    yield from found.consts


def _nested(closed: Any) -> Iterator[Any]:
    """Every jaxpr in a closed one, itself first: whatever a parameter of an equation holds that has equations."""
    waiting = [getattr(closed, "jaxpr", closed)]
    while waiting:
        jaxpr = waiting.pop()
        yield jaxpr
        for equation in jaxpr.eqns:
            leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda node: hasattr(node, "eqns"))
            waiting += [getattr(leaf, "jaxpr", leaf) for leaf in leaves if hasattr(leaf, "eqns")]


def constant_line(constant: Any) -> str:
    """A constant of a jaxpr in a line, with the digest of its numbers."""
    if isinstance(constant, jax.core.Tracer):
        return "a tracer"
    if isinstance(constant, jax.Array) and jax.numpy.issubdtype(constant.dtype, jax.dtypes.prng_key):
        constant = jax.random.key_data(constant)
    try:
        values = np.asarray(constant)
    except Exception:  # noqa: BLE001 - not an array: a mesh, a reference
        return without_addresses(repr(constant))
    digest = hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()
    return f"a constant {values.dtype}{list(values.shape)} {digest}"
