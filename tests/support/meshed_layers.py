"""Layers whose variables have axis names, for runs over a mesh."""

from __future__ import annotations

from flax import nnx
from flax.nnx import bridge

INIT, ZEROS = nnx.initializers.lecun_normal(), nnx.initializers.zeros


class Block(nnx.Module):
    """Up, norm, down: cut by columns, then by rows, as large models are."""

    def __init__(self, features, *, rngs):
        up, down = nnx.with_partitioning(INIT, (None, "model")), nnx.with_partitioning(INIT, ("model", None))
        bias = nnx.with_partitioning(ZEROS, ("model",))
        self.up = nnx.Linear(8, features, kernel_init=up, bias_init=bias, rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.down = nnx.Linear(features, 8, kernel_init=down, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.relu(self.norm(self.up(x))))


def boxed(features, *, rngs):
    """In the boxes of Linen (`nn.Partitioned`), which are placed by whoever unboxes them."""
    return nnx.Linear(8, features, kernel_init=bridge.with_partitioning(INIT, ("data", "model")), rngs=rngs)


def logical(features, *, rngs):
    return nnx.Linear(8, features, kernel_init=nnx.with_partitioning(INIT, ("embed", "mlp")), rngs=rngs)


def both(features, *, rngs):
    """One axis cut along two of the mesh."""
    return nnx.Linear(8, features, kernel_init=nnx.with_partitioning(INIT, (None, ("data", "model"))), rngs=rngs)


def three_names(features, *, rngs):
    return nnx.Linear(8, features, kernel_init=nnx.with_partitioning(INIT, ("data", "model", None)), rngs=rngs)


def twice(features, *, rngs):
    return nnx.Linear(8, features, kernel_init=nnx.with_partitioning(INIT, ("model", "model")), rngs=rngs)
