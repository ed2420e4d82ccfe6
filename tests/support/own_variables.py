"""Collections of a layer's own: flax.nnx knows a Variable by its class's name, so each is defined once."""

from __future__ import annotations

import jax
from flax import nnx


class Average(nnx.Variable[jax.Array]):
    """A mean of what a layer saw, in a collection that no pipeline lists."""
