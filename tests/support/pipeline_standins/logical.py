"""MaxText, as a layer inside meets it: a scan that names its axis, logical boxes, and a ToLinen of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx
from flax.core import FrozenDict
from flax.linen import partitioning

WIDTH, HIDDEN = 8, 16
RULES = (("layers", "tensor"), ("embed", "fsdp"), ("mlp", "tensor"))


def logical(variable: nnx.Variable[Any]) -> Any:
    """The value in a LogicallyPartitioned, bare where no axis has a name."""
    names = variable.get_metadata().get("out_sharding")
    value = variable.get_value()
    return value if names is None else nn.LogicallyPartitioned(value, tuple(names))


class OwnToLinen(nn.Module):
    """A wrapper that is none of flax's: state made at init and kept in the collection of its Variable's type."""

    nnx_class: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = FrozenDict({})
    skip_rng: bool = False
    metadata_fn: Callable[[nnx.Variable[Any]], Any] | None = logical

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's output."""
        streams = {name: self.make_rng(name) for name in self.scope.rngs} if self.scope else {}
        rngs = {} if self.skip_rng else {"rngs": nnx.Rngs(**{"default": jax.random.key(0), **streams})}
        layer = self.nnx_class(*self.args, **self.kwargs, **rngs)
        if not self.is_initializing():
            kept = nn.unbox([dict(tree) for tree in self.variables.values()])
            nnx.update(layer, nnx.merge_state(*(nnx.State(tree) for tree in kept)))
        output = layer(*args, **kwargs)
        self._keep(layer)
        return output

    def _keep(self, layer: nnx.Module) -> None:
        for path, variable in nnx.to_flat_state(nnx.state(layer, nnx.Not(nnx.RngState))):
            collection = nnx.variable_name_from_type(variable.type, allow_register=True)
            if self.is_mutable_collection(collection):
                first, *rest = path
                tree = dict(self.get_variable(collection, first, {})) if rest else {}
                value = self.metadata_fn(variable) if self.metadata_fn else variable.get_value()
                self.put_variable(collection, first, _put(tree, rest, value))


def _put(tree: dict[Any, Any], path: list[Any], value: Any) -> Any:
    """`value` in a copy of `tree` at `path`."""
    if not path:
        return value
    first, *rest = path
    return {**tree, first: _put(dict(tree.get(first, {})) if rest else {}, rest, value)}


class Block(nn.Module):
    """The layer, called (x, deterministic=…), added to its input."""

    layer: Any

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> tuple[jax.Array, None]:
        return x + self.layer(name="mlp")(x, deterministic=deterministic), None


class Decoder(nn.Module):
    """Blocks in a scan that lists MaxText's collections: [batch, length, 8] to the same."""

    layer: Any
    num_layers: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = False) -> jax.Array:
        axis = 1 if self.is_mutable_collection("params") else partitioning.ScanIn(1)
        blocks = nn.scan(
            Block,
            variable_axes={"params": axis, "cache": 0, "intermediates": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return blocks(self.layer, name="layers")(x, deterministic)[0]


def unboxed(tree: Any) -> Any:
    """The tree without LogicallyPartitioned; other boxes stay, as in MaxText."""
    is_box = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.unbox() if is_box(leaf) else leaf, tree, is_leaf=is_box)
