"""The random keys of a run: one root key from its seed, and separate streams for init and apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np

from runner.records import seeds

PARAMS = "params"


def root_key(seed: int) -> jax.Array:
    """The Linen init key of a run: `jax.random.PRNGKey(seed)`."""
    return jax.random.PRNGKey(seed)


def key_shape() -> Any:
    """Shape and dtype of a root key: 2 numbers, or 4 where JAX's default generator is another (MaxText's `rbg`)."""
    return jax.eval_shape(lambda: jax.random.PRNGKey(0))  # JAX would remember the function itself


def teacher_key(seed: int) -> jax.Array:
    """The root key of a teacher's weights: different from that of any run."""
    return _named_key(root_key(seed), "train", "teacher")


def init_keys(key: jax.Array, streams: Sequence[str]) -> dict[str, jax.Array]:
    """Keys passed to init: the root key for `params`, and one folded from it by name for every other stream."""
    return {stream: key if stream == PARAMS else _named_key(key, "init", stream) for stream in streams}


def apply_keys(key: jax.Array, streams: Sequence[str]) -> dict[str, jax.Array]:
    """Keys passed to apply: different from init's, and none for `params`."""
    return {stream: _named_key(key, "apply", stream) for stream in streams if stream != PARAMS}


def native_streams(keys: Mapping[str, jax.Array], path: Sequence[str] = ()) -> dict[str, jax.Array]:
    """What a wrapped layer really draws from: one stream for every key that Linen was given.

    `model.init(keys, x)` builds the layer with `nnx.Rngs(**native_streams(keys))`, so the same class built with these
    has the same variables, bit for bit. Each is the key with four bytes of a SHA-1 folded in: over the names of the
    modules on the way, and over 1, since the wrapper is the first in its scope to ask for a stream.

    Args:
      keys: Key of each stream, as given to Linen's init or apply.
      path: Names from the outermost Linen module down to the wrapped layer; empty where it is the outermost.
    """
    folded = np.uint32(seeds.stream_number(path, separated=flax.config.flax_fix_rng_separator))
    return {stream: jax.random.fold_in(key, folded) for stream, key in keys.items()}


def _named_key(key: jax.Array, when: str, stream: str) -> jax.Array:
    return jax.random.fold_in(key, seeds.key_number(when, stream))
