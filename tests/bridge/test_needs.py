"""What a layer needs, found by tracing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

from runner.bridge import wrap
from runner.bridge.needs import MAX_STREAMS, find_needs

NAMES = [f"noise_{num}" for num in range(MAX_STREAMS - 1)]


class ManyStreams(nnx.Module):
    def __init__(self, *, rngs):
        self.w = nnx.Param(sum(jax.random.normal(rngs[name](), (4,)) for name in NAMES))

    def __call__(self, x):
        return x * self.w[...]


def test_fifteen_streams_more_are_found():
    needs = find_needs(wrap.called(bridge.to_linen(ManyStreams), {}), jnp.ones((2, 4)), "it")
    assert (len(NAMES), set(needs.streams)) == (15, {"params", *NAMES})
