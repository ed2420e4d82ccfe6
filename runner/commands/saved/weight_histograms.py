"""Reads checkpoints for the report: how the values of each leaf lie. A few runs, a bounded number of bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from runner.arrays import checkpoint, trees
from runner.records.paths import RunFolder
from runner.records.record import Record

NUM_BINS = 40
MAX_RUNS = 50
MAX_BYTES = 2**29

# One leaf: its name, counts, and the ends of the first and the last bin.
Histogram = list[Any]


def read(runs: Iterable[tuple[RunFolder, Record]]) -> tuple[dict[str, list[Histogram]], int]:
    """The histograms of runs whose checkpoint is there, by run id; and how many more runs were left out.

    A checkpoint that can't be read has none: `verify` says what is wrong with it.
    """
    found: dict[str, list[Histogram]] = {}
    left_out, num_bytes = 0, 0
    for folder, record in runs:
        if record.saved is None:
            continue
        num_bytes += sum(leaf.num_bytes for leaf in record.variables)
        if len(found) == MAX_RUNS or num_bytes > MAX_BYTES:
            left_out += 1
            continue
        try:
            found[record.run_id] = of_tree(checkpoint.restore(folder.checkpoint))
        except checkpoint.CheckpointError:
            continue
    return found, left_out


def of_tree(variables: Any) -> list[Histogram]:
    """A histogram of the finite values of every leaf of real numbers."""
    pairs = [(trees.spell(path), np.asarray(leaf)) for path, leaf in trees.flatten(variables)]
    known = [(name, _finite(array)) for name, array in pairs if jnp.issubdtype(array.dtype, jnp.floating)]
    return [_histogram(name, values) for name, values in known if values.size]


def _finite(array: np.ndarray) -> np.ndarray:
    values = array.astype(np.float64, copy=False).ravel()
    return values[np.isfinite(values)]


def _histogram(name: str, values: np.ndarray) -> Histogram:
    counts, edges = np.histogram(values, bins=NUM_BINS)
    return [name, counts.tolist(), float(edges[0]), float(edges[-1])]
