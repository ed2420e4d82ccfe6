"""A layer that `test_compare.py` writes into a user's module: work that takes time and leaves the output alone."""

LAYERS = """
import jax
import jax.numpy as jnp
from flax import nnx


class Works(nnx.Module):
    def __init__(self, features, *, loops=0, rngs):
        self.linear = nnx.Linear(features, features, rngs=rngs)
        self.loops = loops

    def __call__(self, x):
        y = self.linear(x)
        idle = jax.lax.fori_loop(0, self.loops, lambda _, z: jnp.tanh(z @ self.linear.kernel[...]), y)
        return y + 0 * idle
"""
