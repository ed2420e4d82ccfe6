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
        variables = trees.nest((self.keys[name], leaf) for name, leaf in leaves.items())
        output, updates = self.layer.apply(variables, fixed_keys(self.needs.streams), self.needs.mutable, x)
        return {OUTPUT: output, **trees.unbox(updates)}

    def run(self, leaves: Arrays, x: np.ndarray, *, eager: bool = False) -> Arrays:
        """Output below `output`, and updated collections below their names."""
        given = (self._apply if eager else self.compiled)(dict(leaves), jnp.asarray(x))
        return trees.named_arrays(given)

    def gradients(self, leaves: Arrays, x: np.ndarray) -> Arrays:
        """Gradients of a weighted sum of the output by floating params, and below `input` by a floating input."""

        def loss(trained: Mapping[str, Any], x: Any) -> Any:
            output = jax.tree.leaves(self._apply({**fixed, **trained}, x)[OUTPUT])
            floating = [leaf for leaf in output if jnp.issubdtype(leaf.dtype, jnp.inexact)]
            return sum(jnp.sum(jnp.real(leaf) * _weights(leaf.shape)) for leaf in floating)

        trained = {name: leaf for name, leaf in leaves.items() if name.startswith("params/") and _is_inexact(leaf)}
        fixed = {name: jnp.asarray(leaf) for name, leaf in leaves.items() if name not in trained}
        if not _is_inexact(x):
            return trees.named_arrays(jax.jit(jax.grad(loss))(trained, jnp.asarray(x)))
        by_params, by_input = jax.jit(jax.grad(loss, argnums=(0, 1)))(trained, jnp.asarray(x))
        return trees.named_arrays({**by_params, "input": by_input})


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _weights(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(11).standard_normal(shape).astype(np.float32)
