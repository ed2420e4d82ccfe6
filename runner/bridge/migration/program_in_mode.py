"""All that a model gives in one call, output and updates, as one compiled function of its leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.arrays import trees
from runner.bridge.migration.trial_values import Arrays
from runner.bridge.needs import Needs
from runner.bridge.tracing.fixed_draws import fixed_keys
from runner.bridge.wrap import Bridged

# The name below which the output is, next to the collections.
OUTPUT = "output"

# Where Linen and NNX sow what people look at and train on nothing of.
LOOKED_AT = "intermediates"


def is_output(path: str) -> bool:
    """Whether what a call gives at `path` is of its output, and no update."""
    return path.split("/")[0] == OUTPUT


class Program:
    """A model in one mode, compiled: from leaves by path to all that a call gives, by path.

    Args:
      layer: The model, with the call arguments of the mode.
      needs: What it needs in that mode.
    """

    def __init__(self, layer: Bridged, needs: Needs) -> None:
        self.layer, self.needs = layer, needs
        pairs = trees.flatten(trees.unbox(needs.variables))
        self.keys = {trees.spell(path): path for path, _ in pairs}
        self.shapes = {trees.spell(path): leaf for path, leaf in pairs}
        self.compiled = jax.jit(self._apply)

    def _apply(self, leaves: Mapping[str, Any], x: Any) -> Any:
        nested = trees.nest((self.keys[name], leaf) for name, leaf in leaves.items())
        # What was sown is a tuple, to which apply adds.
        variables = trees.with_keys_of(nested, trees.unbox(self.needs.variables))
        output, updates = self.layer.apply(variables, fixed_keys(self.needs.streams), self.needs.mutable, x)
        return {OUTPUT: output, **trees.unbox(updates)}

    def run(self, leaves: Arrays, x: np.ndarray, *, eager: bool = False) -> Arrays:
        """Output below `output`, and updated collections below their names."""
        given = (self._apply if eager else self.compiled)(dict(leaves), jnp.asarray(x))
        return trees.named_arrays(given)

    def gradients(self, leaves: Arrays, x: np.ndarray) -> Arrays:
        """Gradients of a weighted sum of the output and what is sown, by floating params and a floating input."""

        def loss(trained: Mapping[str, Any], x: Any) -> Any:
            given = self._apply({**fixed, **trained}, x)
            output = [*jax.tree.leaves(given.pop(OUTPUT)), *self._sown(given)]
            floating = [leaf for leaf in output if jnp.issubdtype(leaf.dtype, jnp.inexact)]
            return sum(_weighted(leaf) for leaf in floating)

        trained = {name: leaf for name, leaf in leaves.items() if name.startswith("params/") and _is_inexact(leaf)}
        fixed = {name: jnp.asarray(leaf) for name, leaf in leaves.items() if name not in trained}
        if not _is_inexact(x):
            return trees.named_arrays(jax.jit(jax.grad(loss))(trained, jnp.asarray(x)))
        by_params, by_input = jax.jit(jax.grad(loss, argnums=(0, 1)))(trained, jnp.asarray(x))
        return trees.named_arrays({**by_params, "input": by_input})

    def _sown(self, updates: Mapping[str, Any]) -> list[Any]:
        """What a call adds to the collections, such as a loss; not what is only looked at."""
        found = {trees.spell(path): leaf for path, leaf in trees.flatten(updates) if path[0] != LOOKED_AT}
        return [leaf for name, leaf in sorted(found.items()) if name not in self.keys]


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _weighted(leaf: Any) -> Any:
    real = jnp.sum(jnp.real(leaf) * _weights(leaf.shape, 11))
    is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return real + jnp.sum(jnp.imag(leaf) * _weights(leaf.shape, 12)) if is_complex else real


def _weights(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
