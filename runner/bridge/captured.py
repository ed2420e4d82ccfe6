"""Every call of a wrapped layer in a host, as the host makes it: on what, in which mode, inside which lifts."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from flax import nnx
from flax.core import scope as linen_scope

from runner.bridge import host_lifts, rngs, wrap
from runner.bridge.calls import METHOD
from runner.bridge.host_lifts import HostLift
from runner.bridge.wrap import Bridged

# Functions that `nn.jit` has traced are not traced again in the same context, and nothing else uses this one.
CAPTURING = "BF16_BF16_F32_X3"


@dataclass(frozen=True, kw_only=True)
class Captured:
    """One call of a wrapped layer.

    Attributes:
      path: The layer's path in the host, '' for the host itself.
      layer: The layer, unbound.
      args: Its inputs; arrays as shapes and dtypes.
      kwargs: The same by name, without the method.
      method: What is called, as the wrapper's `nnx_method`; None for `__call__`.
      mutable: Which collections the call may change or make, as flax's filter.
      lifted: Whether the host calls it inside a lift: `nn.scan`, `nn.vmap`, `nn.remat` and the like.
      lifts: Those lifts from the outermost in, where they were watched.
    """

    path: str
    layer: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    method: Any
    mutable: Any
    lifted: bool
    lifts: tuple[HostLift, ...]

    def keeps(self, collection: str) -> bool:
        """Whether what the call makes or changes in `collection` leaves the layer."""
        return bool(linen_scope.in_filter(self.mutable, collection))

    @property
    def arrays(self) -> list[jax.ShapeDtypeStruct]:
        """The arrays among its inputs, in order."""
        leaves = jax.tree.leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)]

    @functools.cached_property
    def module(self) -> nnx.Module:
        """The native module of the layer, shapes in place of arrays."""
        return nnx.eval_shape(lambda: self.construct(nnx.Rngs(0)))

    def construct(self, rngs: nnx.Rngs) -> nnx.Module:
        """The native module of the layer."""
        build = wrap.called(self.layer, {}).construct
        assert build is not None
        return build(rngs)

    def run(self, module: nnx.Module, arrays: Sequence[Any], **replaced: Any) -> Any:
        """What the native module gives for the call's inputs, with `arrays` in the place of the shapes."""
        leaves, structure = jax.tree.flatten((self.args, self.kwargs))
        given = iter(arrays)
        filled = [next(given) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf for leaf in leaves]
        args, kwargs = jax.tree.unflatten(structure, filled)
        method = self.method or "__call__"
        if isinstance(method, str):
            return getattr(module, method)(*args, **{**kwargs, **replaced})
        return method(module, *args, **{**kwargs, **replaced})


class _Capturing:
    """Notes every call of a wrapped layer."""

    def __init__(self) -> None:
        self.found: list[Captured] = []
        self._inside: list[nn.Module] = []

    def __call__(self, run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not hasattr(module, "nnx_class"):
            return run(*args, **kwargs)
        if any(module is one for one in self._inside):  # by a subclass, through super(): the call that counts
            self.found.pop()
        self.found.append(_captured(module, args, kwargs))
        self._inside.append(module)
        try:
            return run(*args, **kwargs)
        finally:
            self._inside.pop()


def _captured(module: Any, args: Any, kwargs: Any) -> Captured:
    given = jax.tree.map(_shape, (tuple(args), dict(kwargs)))
    method = given[1].pop(METHOD, None)
    return Captured(
        path="/".join(module.path),
        layer=module.clone(parent=None, name=None),
        args=given[0],
        kwargs=given[1],
        method=method,
        mutable=module.scope.mutable,
        lifted=any("(" in part for part in module.scope.debug_path),
        lifts=host_lifts.current(),
    )


def _shape(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, jax.Array) else leaf


def calls(
    model: Bridged, streams: Sequence[str], x: Any, *, variables: Any = None, call: Mapping[str, Any] | None = None
) -> list[Captured]:
    """Every call of a wrapped layer during init, or during apply on `variables`, in order; only traces.

    Args:
      model: A host, or a wrapped layer.
      streams: All rng streams that it needs.
      x: Shape and dtype of the input.
      variables: Shapes of the variables; None for init.
      call: Call arguments of the host besides, or in place of, its own.
    """
    found = _traced(model, streams, x, variables, call)
    if not found:  # or traced before, by `nn.jit`
        jax.clear_caches()
        found = _traced(model, streams, x, variables, call)
    return found


def _traced(
    model: Bridged, streams: Sequence[str], x: Any, variables: Any, call: Mapping[str, Any] | None
) -> list[Captured]:
    seen, given = _Capturing(), {**model.call, **(call or {})}

    def run(variables: Any, key: Any, x: Any) -> Any:
        with nn.intercept_methods(seen):
            if variables is None:
                return model.model.init(rngs.init_keys(key, streams), x, **given)
            return model.model.apply(variables, x, rngs=rngs.apply_keys(key, streams), mutable=True, **given)

    with jax.default_matmul_precision(CAPTURING):
        jax.eval_shape(run, variables, jax.ShapeDtypeStruct((2,), "uint32"), x)
    return seen.found
