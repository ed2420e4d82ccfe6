"""T5X and Flaxformer, as a layer inside meets them: params whose axis names lie in `params_axes`, and their scan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.linen import partitioning

WIDTH, HIDDEN = 8, 16
RULES = (("batch", "data"), ("mlp", "model"), ("embed", None), ("layers", None))


class Block(nn.Module):
    """A scale of its own, then the layer, called (x, deterministic=…), added to its input."""

    layer: Any

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> tuple[jax.Array, None]:
        scale = partitioning.param_with_axes("scale", nn.initializers.ones, (WIDTH,), axes=("embed",))
        return x + self.layer(name="mlp")(x * scale, deterministic=deterministic), None


class Encoder(nn.Module):
    """Blocks in one scan that lists `params` and `cache`, or one after the other: [batch, length, 8] to the same."""

    layer: Any
    scan_layers: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, enable_dropout: bool | None = None) -> jax.Array:
        """`enable_dropout=False` is its evaluation, and how T5X initialises; None is right for init and training."""
        enable_dropout = not self.is_initializing() if enable_dropout is None else enable_dropout
        if not self.scan_layers:
            for number in range(2):
                x, _ = Block(self.layer, name=f"layers_{number}")(x, not enable_dropout)
            return x
        axis = 1 if self.is_mutable_collection("params") else partitioning.ScanIn(1)
        blocks = partitioning.scan_with_axes(
            Block,
            variable_axes={"params": axis, "cache": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=2,
            axis_name="layers",
        )
        return blocks(self.layer, name="encoder")(x, not enable_dropout)[0]


def mesh_axes(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The mesh axes of each param by RULES, as a train state of T5X asks for them.

    Raises:
      ValueError: A param has no axis names, or names of another rank.
      TypeError: A key of the tree is no string.
    """
    params = traverse_util.flatten_dict(flax.core.unfreeze(variables["params"]), sep="/")
    found = partitioning.get_axis_names(flax.core.unfreeze(variables.get("params_axes", {})))
    names = traverse_util.flatten_dict(flax.core.unfreeze(found), sep="/")
    if missing := set(params) - set(names):
        raise ValueError(f"no axis names of {sorted(missing)}")
    if wrong := [path for path, leaf in params.items() if jnp.ndim(leaf) != len(names[path])]:
        raise ValueError(f"axis names of another rank: {wrong}")
    return {path: partitioning.logical_to_mesh_axes(names[path], RULES) for path in params}
