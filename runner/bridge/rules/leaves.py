"""The leaves of Linen variables as functions by path see them: a box adds `value`, integer keys stay integers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx
from flax.core import meta

from runner.arrays import trees
from runner.bridge import lifts, rngs, twins
from runner.bridge.layers import axes
from runner.bridge.wrap import Bridged

# Where a wrapped layer alone stands in for its place in a host: rules that match whole paths expect one.
ALONE = "layer"

# Names of what is a vector for each head or group, and decays nowhere.
VECTORS = re.compile(r"(\w*_)?(bias|scale|b|gamma|beta)")

# The leaf of an Embed, which masks of kernels leave out wherever it is.
EMBEDDING = "embedding"

# Collections that hold no leaves of a train state.
UNJUDGED = ("params_axes", "intermediates")


@dataclass(frozen=True, kw_only=True)
class NamedLeaf:
    """One leaf.

    Attributes:
      path: Its keys, the collection first; what a box adds is the last.
      plain: The same without what a box adds.
      shape: Shape of the array.
      own_rank: How many axes it has in the layer itself, without those that a lift adds.
      is_own: Whether it is a wrapped layer's.
      has_twin: Whether a Linen module has the same leaf, without the box.
      is_placed: Whether that module would be at the same path in a host, or masks know its leaf by its own name.
      is_alone: Whether the layer is in no host.
    """

    path: tuple[Any, ...]
    plain: tuple[Any, ...]
    shape: tuple[int, ...]
    own_rank: int
    is_own: bool = False
    has_twin: bool = False
    is_placed: bool = False
    is_alone: bool = False

    @property
    def name(self) -> str:
        """The path as one string."""
        return trees.spell(self.path)

    @property
    def plain_name(self) -> str:
        """The same without what a box adds."""
        return trees.spell(self.plain)

    @property
    def is_scalar(self) -> bool:
        """Whether it has one element: EasyLM's rules leave it out."""
        return math.prod(self.shape) == 1

    @property
    def is_matrix(self) -> bool:
        """Whether it has two axes or more in its layer, and is no bias of heads: what weight decay is for."""
        return self.own_rank > 1 and not VECTORS.fullmatch(str(self.plain[-1]))

    @property
    def integer_keys(self) -> list[Any]:
        """Keys that are no strings."""
        return [part for part in self.path if not isinstance(part, str)]

    def text(self, *, fullmatch: bool, boxed: bool = True) -> str:
        """What a regex is matched with: the whole path, or for `fullmatch` without the collection."""
        path = self.path if boxed else self.plain
        if not fullmatch:
            return trees.spell(path)
        return trees.spell([ALONE, *path[1:]] if self.is_alone else path[1:])


@dataclass(frozen=True, kw_only=True)
class _Own:
    """What a wrapped layer says of its own leaves, by their path in the host's variables."""

    ranks: Mapping[tuple[Any, ...], int] = field(default_factory=dict)
    twins: frozenset[tuple[Any, ...]] = frozenset()
    placed: frozenset[tuple[Any, ...]] = frozenset()


def named_leaves(
    variables: Any, model: Bridged | None = None, streams: Sequence[str] = (), x: Any = None
) -> list[NamedLeaf]:
    """The leaves of `variables`; what is only sown is left out.

    Args:
      variables: Shapes or arrays, in boxes or not.
      model: The model that they belong to, if it is known.
      streams: All rng streams that it needs.
      x: Its input, or shape and dtype.
    """
    own = _Own() if model is None else _own(model, streams, x)
    is_alone = model is not None and lifts.is_wrapped(model)
    found = []
    for path, boxed in trees.flatten(_judged(variables)):
        array = trees.unbox(boxed)
        shape = tuple(getattr(array, "shape", ()))
        found.append(
            NamedLeaf(
                path=(*path, *_inside(boxed)),
                plain=path,
                shape=shape,
                own_rank=own.ranks.get(path, len(shape)),
                is_own=path in own.ranks or is_alone,
                has_twin=path in own.twins,
                is_placed=path in own.placed,
                is_alone=is_alone,
            )
        )
    return found


def _judged(variables: Any) -> dict[str, Any]:
    return {str(name): tree for name, tree in variables.items() if name not in UNJUDGED and not trees.is_sown(tree)}


def _inside(boxed: Any) -> tuple[Any, ...]:
    if not isinstance(boxed, meta.AxisMetadata):
        return ()
    (path, _), *_ = jax.tree_util.tree_flatten_with_path(boxed)[0]
    return tuple(str(getattr(part, "name", getattr(part, "key", part))) for part in path)


def _own(model: Bridged, streams: Sequence[str], x: Any) -> _Own:
    ranks: dict[tuple[Any, ...], int] = {}
    known: set[tuple[Any, ...]] = set()
    placed: set[tuple[Any, ...]] = set()
    for name, layer in dict(lifts.wrapped_calls(model, streams or (rngs.PARAMS,), x)).items():
        own = _variables(layer, tuple(name.split("/")) if name else ())
        ranks |= own.ranks
        known |= own.twins
        placed |= own.placed
    return _Own(ranks=ranks, twins=frozenset(known), placed=frozenset(placed))


def _variables(layer: Any, place: tuple[str, ...]) -> _Own:
    """Every variable of a wrapped layer, by its path in the host's variables."""
    with nnx.use_eager_sharding(False):
        module = nnx.eval_shape(lambda: axes.construct(layer, nnx.Rngs(0)))
    # A module of flax's own has its leaves by the names that they have in Linen.
    linen = {path for path, part in nnx.iter_modules(module) if type(part) in twins.TWINS}
    ranks: dict[tuple[Any, ...], int] = {}
    known: set[tuple[Any, ...]] = set()
    for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngState))):
        arrays = jax.tree.leaves(leaf)
        if not isinstance(leaf, nnx.Variable) or not arrays:
            continue
        name = (nnx.variable_name_from_type(type(leaf), allow_register=True), *place, *path)
        ranks[name] = len(arrays[0].shape)
        known |= {name} if path[:-1] in linen else set()
    is_whole = type(module) in twins.TWINS
    placed = {name for name in known if is_whole or name[-1] == EMBEDDING}
    return _Own(ranks=ranks, twins=frozenset(known), placed=frozenset(placed))
