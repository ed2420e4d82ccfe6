"""Arguments as the config says them: real lists, dicts and objects, rebuilt for each construction, yet hashable.

A Linen module is a static argument of jit, so its fields must be hashable, and flax freezes lists and dicts in them.
What is here is no list or dict for flax; the layer gets lists and dicts of its own, which it may even change.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx, serialization

from runner.bridge.calling import calls, wanted


class Frozen:
    """A value that is compared and hashed and not looked into.

    Args:
      value: What can be hashed.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and bool(self._value == other._value)


class Arguments(Mapping[str, Any]):
    """Keyword arguments that hash and compare by value; each reading makes new lists, dicts and objects.

    Args:
      kept: Values by name: what YAML has, functions, dtypes, NumPy arrays and `Nested`.

    Attributes:
      frozen: All of it as one value.
    """

    def __init__(self, kept: Mapping[str, Any] | None = None) -> None:
        self._kept = dict(kept or {})
        self.frozen = Frozen(_frozen(self._kept))

    def __getitem__(self, name: str) -> Any:
        return made(self._kept[name], None)

    def __contains__(self, name: object) -> bool:
        return name in self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __hash__(self) -> int:
        return hash(self.frozen)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arguments) and self.frozen == other.frozen

    def __repr__(self) -> str:
        return f"Arguments({self._kept!r})"

    @property
    def nested(self) -> bool:
        """Whether an argument is an object that is made with rngs."""
        return needs_rngs(self._kept)


# `nn.jit` tells modules apart by what is in their fields: here by all of it as one value, types included.
serialization.register_serialization_state(
    Arguments, lambda arguments: arguments.frozen, lambda arguments, state: arguments
)


@dataclass(frozen=True)
class Nested:
    """An object that a config names by `_target_`, made from its own arguments.

    Attributes:
      path: The dotted path of its class or function.
      target: The class or function.
      kwargs: Its keyword arguments.
      args: Its positional arguments.
      partial: Whether the argument is a factory: the function with these arguments bound, not its result.
    """

    path: str
    target: Callable[..., Any] = field(compare=False)
    kwargs: Arguments
    args: Arguments
    partial: bool = False

    @property
    def takes_rngs(self) -> bool:
        """Whether it, or an object inside it, is made with rngs."""
        own = not self.partial and "rngs" not in self.kwargs and "rngs" in wanted.parameters(self.target)
        return own or self.kwargs.nested or self.args.nested

    def make(self, rngs: nnx.Rngs | None) -> Any:
        """The object, with `rngs` for those that take them."""
        args = [made(item, rngs) for item in self.args._kept.values()]
        kwargs = {key: made(item, rngs) for key, item in self.kwargs._kept.items()}
        if self.partial:
            return functools.partial(self.target, *args, **kwargs)
        if "rngs" not in kwargs and "rngs" in wanted.parameters(self.target):
            kwargs["rngs"] = rngs
        return self.target(*args, **kwargs)

    def __repr__(self) -> str:
        parts = [repr(item) for item in self.args._kept.values()]
        parts += [f"{key}={item!r}" for key, item in self.kwargs._kept.items()]
        called = f"{self.path}({', '.join(parts)})"
        return f"functools.partial({', '.join([self.path, *parts])})" if self.partial else called


@dataclass(frozen=True)
class Assembled:
    """A constructor that makes what is nested in its arguments first, and takes rngs under another name.

    Attributes:
      target: The layer's class or factory.
      rngs: The argument that takes the rngs; None if it has none.
      key: Whether that takes a key, drawn from the stream `params`, instead.
      keeps: Whether the layer keeps the rngs besides, for keys that its call takes.
    """

    target: Callable[..., nnx.Module]
    rngs: str | None = "rngs"
    key: bool = False
    keeps: bool = False

    def __call__(self, *args: Any, rngs: nnx.Rngs | None = None, **kwargs: Any) -> nnx.Module:
        """The layer."""
        given = {name: made(value, rngs) for name, value in kwargs.items()}
        if self.rngs is not None and rngs is not None:
            given[self.rngs] = rngs.params() if self.key else rngs
        layer = self.target(*args, **given)
        if self.keeps:
            setattr(layer, calls.KEPT_RNGS, rngs)
        return layer

    def __getattr__(self, name: str) -> Any:
        # The wrapper looks for the layer's methods here, a signature and a name are the layer's too.
        if name == "target":
            raise AttributeError(name)
        if name == "__signature__":
            return inspect.Signature(list(wanted.parameters(self.target).values()))
        return getattr(self.target, name)


def made(value: Any, rngs: nnx.Rngs | None) -> Any:
    """`value` as the layer gets it: new lists, dicts and objects; those that need rngs only if there are any."""
    if isinstance(value, Nested):
        return value if rngs is None and value.takes_rngs else value.make(rngs)
    if isinstance(value, dict):
        return {key: made(item, rngs) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [made(item, rngs) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value


def needs_rngs(value: Any) -> bool:
    """Whether an object in `value` is made with rngs."""
    if isinstance(value, Nested):
        return value.takes_rngs
    if isinstance(value, dict):
        return any(map(needs_rngs, value.values()))
    return isinstance(value, (list, tuple)) and any(map(needs_rngs, value))


def _frozen(value: Any) -> Any:
    """`value` so that it can be hashed; what differs in type differs."""
    if isinstance(value, dict):
        return "dict", tuple((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_frozen(item) for item in value)
    if isinstance(value, np.ndarray):
        return "array", value.dtype, value.shape, value.tobytes()
    return type(value), value
