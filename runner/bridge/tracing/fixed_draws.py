"""A random number generator whose draws depend only on their shape, not on the key.

A Linen dropout and the NNX one in its place draw from different keys: with this, both drop the same elements, so that
two models can be compared in train mode.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import random as extended

KEY_SHAPE = (2,)
WIDTHS: dict[int, Any] = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}


def fixed_keys(streams: Sequence[str]) -> dict[str, jax.Array]:
    """A key for every stream but `params`; whatever is drawn from it, or from keys made of it, is fixed."""
    key: jax.Array = jax.random.key(0, impl=_implementation())
    return {stream: key for stream in streams if stream != "params"}


@functools.cache
def _implementation() -> Any:
    return extended.define_prng_impl(
        key_shape=KEY_SHAPE, seed=_seed, split=_split, random_bits=_bits, fold_in=_fold_in, name="fixed", tag="fixed"
    )


def _seed(_: jax.Array) -> jax.Array:
    return jnp.zeros(KEY_SHAPE, jnp.uint32)


def _split(_: jax.Array, shape: Sequence[int]) -> jax.Array:
    return jnp.zeros((*shape, *KEY_SHAPE), jnp.uint32)


def _fold_in(key: jax.Array, _: int) -> jax.Array:
    return key


def _bits(_: jax.Array, width: int, shape: Sequence[int]) -> jax.Array:
    # Two rounds of a multiplicative hash of the element's number: evenly spread, which is all that a mask needs.
    bits = jax.lax.iota(jnp.uint32, math.prod(shape)) * jnp.uint32(2654435761) + jnp.uint32(12345)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(2246822519)
    bits = bits ^ (bits >> 13)
    return bits.astype(WIDTHS[width]).reshape(shape)
