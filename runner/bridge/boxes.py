"""Metadata boxes around the leaves of Linen variables, and targets to restore a checkpoint into."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from flax import linen as nn
from flax import nnx
from flax.core import meta

from runner.arrays import trees

# What a target without boxes is called.
PLAIN = "plain arrays"

# What the bridge puts around a leaf with metadata, unless it is told otherwise.
NNX = "NNXMeta"

# An argument of `bridge.to_linen` that puts the old box around a leaf with axis names.
KEEPING = {
    box: f"metadata_fn=lambda v: nn.{box}(v.get_value(), v.get_metadata()['out_sharding'])"
    " if v.get_metadata().get('out_sharding') else v.get_value()"
    for box in ("LogicallyPartitioned", "Partitioned")
} | {PLAIN: "metadata_fn=None"}


def logical(variable: nnx.Variable[Any]) -> Any:
    """A `metadata_fn` that boxes what has axis names in `nn.LogicallyPartitioned`, and leaves the rest bare."""
    names = variable.get_metadata().get("out_sharding")
    return nn.LogicallyPartitioned(variable.get_value(), tuple(names)) if names else variable.get_value()


def box_names(variables: Any) -> dict[str, str | None]:
    """The class of the box around every leaf, by path; None for a plain array."""
    return {
        trees.spell(path): type(leaf).__name__ if isinstance(leaf, meta.AxisMetadata) else None
        for path, leaf in trees.flatten(variables)
    }


def restore_targets(wanted: Any, boxed: Collection[str]) -> dict[str, Any]:
    """Targets with NumPy leaves to restore a checkpoint into, by what is around the leaves.

    Args:
      wanted: Shapes of the variables that the new model's init gives, in their boxes.
      boxed: Paths of the leaves that are stored in a box.
    """
    own = [name for name in box_names(wanted).values() if name]
    targets = {own[0] if own else PLAIN: _mapped(wanted, lambda _, leaf: _zeros(leaf))}
    for box in (nn.LogicallyPartitioned, nn.Partitioned) if boxed else ():
        targets.setdefault(
            box.__name__,
            _mapped(wanted, lambda name, leaf, box=box: _boxed(leaf, box) if name in boxed else _plain(leaf)),
        )
    return targets | ({} if PLAIN in targets else {PLAIN: _mapped(wanted, lambda _, leaf: _plain(leaf))})


def _mapped(tree: Any, change: Any) -> Any:
    return trees.nest((path, change(trees.spell(path), leaf)) for path, leaf in trees.flatten(tree))


def _zeros(leaf: Any) -> Any:
    return leaf.replace_boxed(_plain(leaf)) if isinstance(leaf, meta.AxisMetadata) else _plain(leaf)


def _plain(leaf: Any) -> np.ndarray:
    inner = trees.unbox(leaf)
    return np.zeros(inner.shape, inner.dtype)


def _boxed(leaf: Any, box: Any) -> Any:
    value = _plain(leaf)
    return box(value, names=(None,) * value.ndim)
