"""The teacher whose output a training run moves towards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.experiment.train.training import Training

# Scale of the noise on those leaves of a teacher that are constant at init.
TEACHER_NOISE = 0.1


def make_teacher(training: Training, variables: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Init's `variables` with noise on what the student would share: trained leaves with a single constant value.

    Args:
      training: How the model is trained.
      variables: The variables from init with the teacher's key.
      seed: The teacher's seed.
    """
    generator = np.random.default_rng(seed)

    def moved(leaf: jax.Array) -> jax.Array:
        if not leaf.size or not jnp.issubdtype(leaf.dtype, jnp.inexact) or (number := _constant(leaf)) is None:
            return leaf
        noise = TEACHER_NOISE * generator.standard_normal(leaf.shape)
        if jnp.iscomplexobj(leaf):
            noise = noise + 1j * TEACHER_NOISE * generator.standard_normal(leaf.shape)
        values = (number + noise).astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])

    return {
        name: jax.tree.map(moved, tree) if name in training.collections else tree for name, tree in variables.items()
    }


def _constant(leaf: jax.Array) -> np.ndarray | None:
    """The single value of a constant leaf; None if its values differ."""
    # No process holds all of a leaf sharded across processes, so they compare it together on the devices.
    values = np.asarray(leaf) if leaf.is_fully_addressable else leaf
    first = values.reshape(-1)[0]
    return np.asarray(first) if bool((values == first).all()) else None
