"""What a host does with the wrapped layers in it: which it calls, how often, and whether its output depends on them.

Every call of a wrapped layer is tagged: a scalar input of the traced function is added to what the layer gives. An
output that reads the scalar depends on that call. So a body that Linen only traces a second time, as `nn.scan` does to
find what it broadcasts, is no call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from runner.bridge import rngs
from runner.bridge.wrap import Bridged

# Functions that `nn.jit` has traced are not traced again in the same context, and nothing else uses these two.
COUNTING, TAGGING = "tensorfloat32", "bfloat16"


Read = Callable[[Any, Sequence[bool]], list[bool]]


@dataclass(frozen=True, kw_only=True)
class HostedCall:
    """One call of a wrapped layer in a host.

    Attributes:
      path: The layer's path in the host, '' for the host itself.
      layer: The layer, unbound.
      counts: Whether the host's output, or what apply sows or updates, depends on what the call gives; None where a
        transform in the host takes no value from outside, so that it can't be told.
    """

    path: str
    layer: nn.Module
    counts: bool | None


class _Tagging:
    """Sees every call of a wrapped layer, and tags what it gives."""

    def __init__(self, tags: Sequence[Any]) -> None:
        self.tags, self.seen = tags, list[HostedCall]()
        self._inside: set[int] = set()

    def __call__(self, run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        is_layer = context.method_name == "__call__" and hasattr(context.module, "nnx_class")
        if not is_layer or id(context.module) in self._inside:  # by a subclass, through super()
            return run(*args, **kwargs)
        self._inside.add(id(context.module))
        try:
            output = run(*args, **kwargs)
        finally:
            self._inside.remove(id(context.module))
        num = len(self.seen)
        unbound = context.module.clone(parent=None, name=None)
        self.seen.append(HostedCall(path="/".join(context.module.path), layer=unbound, counts=None))
        return jax.tree.map(lambda leaf: _plus(leaf, self.tags[num]), output) if num < len(self.tags) else output


def calls(model: Bridged, streams: Sequence[str], x: Any, *, read: Read, variables: Any = None) -> list[HostedCall]:
    """Every call of a wrapped layer during init, or during apply on `variables`, in order; only traces.

    Args:
      model: A host, or a wrapped layer.
      streams: All rng streams that it needs.
      x: Shape and dtype of the input.
      read: Whether each input of a closed jaxpr is read for the outputs that are chosen.
      variables: Shapes of the variables; None for init.
    """
    inputs = variables, rngs.key_shape(), jax.ShapeDtypeStruct(x.shape, x.dtype)

    def run(tagging: _Tagging, variables: Any, key: Any, x: Any) -> Any:
        with nn.intercept_methods(tagging):
            if variables is None:
                return model.model.init_with_output(rngs.init_keys(key, streams), x, **model.call)[0]
            keys = rngs.apply_keys(key, streams)
            return model.model.apply(variables, x, rngs=keys, mutable=True, **model.call)

    counting = _Tagging(())
    with jax.default_matmul_precision(COUNTING):
        jax.eval_shape(lambda *given: run(counting, *given), *inputs)
        if not counting.seen:  # or traced before, by `nn.jit`
            jax.clear_caches()
            jax.eval_shape(lambda *given: run(counting, *given), *inputs)
    reads = _reads(run, len(counting.seen), inputs, read)
    return [dataclasses.replace(call, counts=one) for call, one in zip(counting.seen, reads, strict=True)]


def _reads(run: Any, number: int, inputs: tuple[Any, ...], read: Read) -> list[bool] | list[None]:
    """Whether the output depends on each of `number` calls; None for each where that can't be traced."""
    if not number:
        return []
    used: list[_Tagging] = []

    def tagged(tags: Any, *given: Any) -> Any:
        used.append(_Tagging(tags))
        return run(used[-1], *given)

    try:
        with jax.default_matmul_precision(TAGGING):
            jaxpr = jax.make_jaxpr(tagged)([jax.ShapeDtypeStruct((), jnp.float32)] * number, *inputs)
        reads = read(jaxpr, [True] * len(jaxpr.jaxpr.outvars))[:number]
    except Exception:  # noqa: BLE001 - a transform in the host that takes no value from outside
        return [None] * number
    return reads if len(used[-1].seen) == number else [None] * number


def _plus(leaf: Any, tag: Any) -> Any:
    if not hasattr(leaf, "dtype") or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return leaf ^ (tag != 0) if leaf.dtype == jnp.bool_ else leaf + tag.astype(leaf.dtype)


def twice(found: Sequence[HostedCall]) -> Mapping[str, int]:
    """The layers that are called more than once, with the number of calls that count."""
    paths = [call.path for call in found if call.counts is not False]
    return {path: paths.count(path) for path in dict.fromkeys(paths) if paths.count(path) > 1}
