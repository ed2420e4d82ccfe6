"""A layer that ends its process, as a crash in native code or the system does."""

from __future__ import annotations

import os
import signal

import jax
import jax.numpy as jnp
from flax import nnx


class Kills(nnx.Module):
    """Healthy, but for the width `at`: there its call ends the process, in the way that `by` says."""

    def __init__(self, width: int, by: str, at: int = 8, *, rngs: nnx.Rngs) -> None:
        self.scale = nnx.Param(jax.random.normal(rngs.params(), (width,)))
        self.by = by if width == at else "nothing"

    def __call__(self, x: jax.Array) -> jax.Array:
        def end(y: jax.Array) -> jax.Array:
            if self.by == "abort":
                os.abort()
            if self.by == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            return y

        y = jnp.sum(x) * self.scale[...]
        return jax.pure_callback(end, jax.ShapeDtypeStruct(y.shape, y.dtype), y) if self.by != "nothing" else y
