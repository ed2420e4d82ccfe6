"""Brings sharded arrays to this host, block by block or whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

# Block size for gathering the rows of a sharded array.
BLOCK_BYTES = 2**24


def is_sharded(leaf: Any) -> bool:
    """Whether `leaf` is an array on more than one device."""
    return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1


def blocks(array: Any) -> Iterator[np.ndarray]:
    """The elements of `array` in C order, in contiguous blocks.

    A sharded array is gathered `BLOCK_BYTES` at a time, so that it is never whole on the host; except across several
    processes, since each must receive what the others hold.
    """
    if not is_sharded(array) or not array.is_fully_addressable or array.ndim == 0:
        yield np.ascontiguousarray(whole(array))
        return
    parts = {_start(shard.index): shard for shard in array.addressable_shards}
    num_rows, row_bytes = array.shape[0], max(1, array.nbytes // max(1, array.shape[0]))
    step = max(1, BLOCK_BYTES // row_bytes)
    for first in range(0, num_rows, step):
        block = np.empty((min(step, num_rows - first), *array.shape[1:]), array.dtype)
        for shard in parts.values():
            _copy(shard, block, first)
        yield block


def whole(array: Any) -> np.ndarray:
    """The whole `array` on this host; with several processes, a collective call that all must make."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def on_host(leaf: Any) -> Any:
    """The whole `leaf` on this host; a typed key, which NumPy does not have, as one on its first device."""
    if not (isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)):
        return whole(leaf)
    return jax.random.wrap_key_data(whole(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))


def spec(leaf: Any) -> list[Any] | None:
    """The mesh axis (a name, a list of names, or None) that shards each axis of `leaf`; None without a mesh."""
    if not isinstance(leaf, jax.Array) or not isinstance(leaf.sharding, NamedSharding):
        return None
    known = [list(axes) if isinstance(axes, tuple) else axes for axes in leaf.sharding.spec]
    return known + [None] * (leaf.ndim - len(known))


def _start(index: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(part.start or 0 for part in index)


def _copy(shard: Any, block: np.ndarray, first: int) -> None:
    """Copies the part of `shard` that overlaps the rows from `first` on into `block`."""
    (start, *_), data = _start(shard.index), np.asarray(shard.data)
    low, high = max(start, first), min(start + data.shape[0], first + block.shape[0])
    if low < high:
        block[(slice(low - first, high - first), *shard.index[1:])] = data[low - start : high - start]
