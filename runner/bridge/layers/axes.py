"""A wrapper for pipelines whose train state wants `params_axes`: T5X, Flaxformer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from flax import nnx
from flax.linen import partitioning
from flax.nnx import bridge

COLLECTION = "params_axes"
SUFFIX = "_axes"


class AxesToLinen(bridge.ToLinen):
    """`bridge.ToLinen` with bare arrays in `params`, and their axis names in `params_axes`.

    The names are those that the layer gives its params (`nnx.with_partitioning`), None for an axis without one: what
    `flax.linen.partitioning.param_with_axes` writes for a Linen layer. `scan_with_axes` adds its own axis to them.
    Nothing is placed by the names here; the pipeline's partitioner does that.
    """

    metadata_fn: Callable[[nnx.Variable[Any]], Any] | None = None

    @property
    def variables(self) -> Mapping[str, Any]:
        """The layer's variables, without `params_axes`, which the bridge would take for its state."""
        return {name: tree for name, tree in super().variables.items() if name != COLLECTION}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's output."""
        with nnx.use_eager_sharding(False):
            output = super().__call__(*args, **kwargs)
        write_axes(self)
        return output


def write_axes(module: Any) -> None:
    """Writes the names of a wrapped layer's params, inside a call of it that may change `params_axes`."""
    if not module.is_mutable_collection(COLLECTION):
        return
    with nnx.use_eager_sharding(False):
        state = nnx.state(nnx.eval_shape(lambda: construct(module, nnx.Rngs(0))), nnx.Param)
    tree: dict[Any, Any] = {}
    for (*parents, last), variable in nnx.to_flat_state(state):
        if nnx.variable_name_from_type(type(variable), allow_register=True) != "params":
            continue
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[f"{last}{SUFFIX}"] = partitioning.AxisMetadata(_names(variable))
    for key, entries in tree.items():
        module.put_variable(COLLECTION, key, entries)


def construct(module: Any, rngs: nnx.Rngs, replaced: Mapping[str, Any] = MappingProxyType({})) -> nnx.Module:
    """The native module of a wrapped layer, some arguments replaced; placed by its names if the wrapper places it."""
    streams = {} if getattr(module, "skip_rng", False) else {"rngs": rngs}
    places_nothing = isinstance(module, AxesToLinen)
    with nnx.use_eager_sharding(False) if places_nothing else contextlib.nullcontext():
        made: nnx.Module = module.nnx_class(*module.args, **{**module.kwargs, **replaced, **streams})
    return made


def _names(variable: Any) -> tuple[Any, ...]:
    names = variable.get_metadata().get("out_sharding")
    names = getattr(names, "spec", names)
    return (None,) * len(variable.shape) if names is None else tuple(names)
