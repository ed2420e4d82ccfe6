"""Every call of a wrapped layer in a host, as the host makes it: on what, in which mode, inside which lifts."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import linen as nn
from flax import nnx
from flax.core import scope as linen_scope

from runner.arrays import trees
from runner.bridge import rngs, wrap
from runner.bridge.calling.calls import METHOD
from runner.bridge.tracing import host_lifts, jaxprs, own_wrappers
from runner.bridge.tracing.host_lifts import HostLift
from runner.bridge.wrap import Bridged

# Functions that `nn.jit` has traced are not traced again in the same context, and nothing else uses this one.
CAPTURING = "BF16_BF16_F32_X3"


DRAWING = ("random_bits", "threefry2x32", "random_gamma")


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
      modes: The attributes of the mode, by path, that a pipeline's own wrapper called the layer with; empty for others.
      set_by_wrapper: The names of those that the wrapper itself set.
    """

    path: str
    layer: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    method: Any
    mutable: Any
    lifted: bool
    lifts: tuple[HostLift, ...]
    modes: Mapping[own_wrappers.Path, Any] = field(default_factory=dict)
    set_by_wrapper: frozenset[str] = frozenset()

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
        made: list[Any] = []
        # Not `nnx.eval_shape`: it compares what modules hold besides their variables, and a bare array can't be.
        jax.eval_shape(lambda: made.extend(nnx.split(self.construct(nnx.Rngs(0)))))
        graph, state = made
        return nnx.merge(graph, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state))

    def construct(self, rngs: nnx.Rngs) -> nnx.Module:
        """The native module of the layer, in the mode of the call."""
        build = wrap.called(self.layer, {}).construct
        assert build is not None
        return self.in_mode(build(rngs))

    def in_mode(self, module: nnx.Module) -> nnx.Module:
        """The native module `module`, set to the mode that the layer's wrapper called it in."""
        if self.modes:
            inside = dict(nnx.iter_modules(module))
            for (*owner, name), value in self.modes.items():
                if tuple(owner) in inside:
                    setattr(inside[tuple(owner)], name, value)
        return module

    @functools.cached_property
    def kind(self) -> str:
        """The same for calls of equal layers on equal inputs."""
        return repr((self.layer, self.args, self.kwargs, self.method, *([self.modes] if self.modes else [])))

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of what is called, by name; empty where they can't be told."""
        name = self.method or "__call__"
        target = getattr(type(self.module), name, None) if isinstance(name, str) else name
        try:
            _, *found = inspect.signature(target).parameters.items()  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return {}
        return dict(found)

    @property
    def named(self) -> dict[str, Any]:
        """Its inputs by the names of the parameters, as far as they have names."""
        return {**dict(zip(self.parameters, self.args, strict=False)), **self.kwargs}

    def run(self, module: nnx.Module, arrays: Sequence[Any], **replaced: Any) -> Any:
        """What the native module gives for the call's inputs, with `arrays` in the place of the shapes.

        Args:
          module: The native module.
          arrays: As many as `arrays`.
          **replaced: Inputs in place of, or besides, those of the host.
        """
        leaves, structure = jax.tree.flatten((self.args, self.kwargs))
        given = iter(arrays)
        filled = [next(given) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf for leaf in leaves]
        args, kwargs = jax.tree.unflatten(structure, filled)
        names = list(self.parameters)[: len(args)]
        args = [replaced.pop(name) if name in replaced else arg for name, arg in zip(names, args, strict=False)] or args
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
        number = len(self.found) - 1
        self._inside.append(module)
        try:
            with own_wrappers.watching(module, self.found[-1].method) as seen:
                return run(*args, **kwargs)
        finally:
            self._inside.pop()
            if seen.modes is not None:
                self.found[number] = dataclasses.replace(
                    self.found[number], modes=seen.modes, set_by_wrapper=frozenset(seen.set_by_wrapper)
                )


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


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A host's apply, traced.

    Attributes:
      calls: Every call of a wrapped layer in it.
      num_draws: How many draws the program has, those included that nothing depends on.
      changed: The variables that it changes, as paths.
    """

    calls: Sequence[Captured]
    num_draws: int
    changed: frozenset[str]


def calls(model: Bridged, streams: Sequence[str], x: Any, *, variables: Any = None) -> list[Captured]:
    """Every call of a wrapped layer during init, or during apply on `variables`, in order; only traces.

    Args:
      model: A host, or a wrapped layer.
      streams: All rng streams that it needs.
      x: Shape and dtype of the input.
      variables: Shapes of the variables; None for init.
    """
    if variables is not None:
        return list(applied(model, streams, x, variables).calls)
    found, _, _ = _noted(
        lambda key, x: model.model.init(rngs.init_keys(key, streams), x, **model.call), rngs.key_shape(), x
    )
    return found


def applied(model: Bridged, streams: Sequence[str], x: Any, variables: Any) -> Traced:
    """What apply does on variables of these shapes; only traces."""

    def run(variables: Any, key: Any, x: Any) -> Any:
        keys = rngs.apply_keys(key, streams)
        return model.model.apply(variables, x, rngs=keys, mutable=True, **model.call)[1]

    found, closed, updates = _noted(run, variables, rngs.key_shape(), x)
    paths = ["/".join(map(str, path)) for path, _ in trees.flatten(trees.unbox(updates))]
    moved = jaxprs.changed(closed, range(len(paths))) if len(paths) == len(closed.jaxpr.outvars) else []
    return Traced(
        calls=found,
        num_draws=jaxprs.number_of(closed, DRAWING),
        changed=frozenset(path for path, one in zip(paths, moved, strict=False) if one),
    )


def _noted(run: Any, *inputs: Any) -> tuple[list[Captured], Any, Any]:
    """The calls of wrapped layers while `run` is traced, its jaxpr, and the shapes of what it gives."""
    seen = _Capturing()

    def watched(*given: Any) -> Any:
        with nn.intercept_methods(seen):
            return run(*given)

    with jax.default_matmul_precision(CAPTURING):
        closed, output = jax.make_jaxpr(watched, return_shape=True)(*inputs)
        if not seen.found:  # or traced before, by `nn.jit`
            jax.clear_caches()
            closed, output = jax.make_jaxpr(watched, return_shape=True)(*inputs)
    return seen.found, closed, output
