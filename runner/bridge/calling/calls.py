"""How a layer is called: by another method than `__call__`, with x by name or in a dict, with more arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The wrapper's keyword for the method; it also takes a function of the module.
METHOD = "nnx_method"


@dataclass(frozen=True)
class Placed:
    """Calls a module with x at its place among the keyword arguments: what the wrapper takes as `nnx_method`.

    Attributes:
      name: The argument, or the dotted place in one that is a dict.
      method: The module's method.
    """

    name: str
    method: str = "__call__"

    def __call__(self, module: Any, x: Any, **more: Any) -> Any:
        """The method's output."""
        return getattr(module, self.method)(**put(more, self.name, x))


# Where a layer whose call takes keys keeps the rngs that they are drawn from.
KEPT_RNGS = "bridge_runner_rngs"


@dataclass(frozen=True)
class Drawn:
    """A call argument that is a key, drawn again at each call.

    Attributes:
      stream: The rng stream.
    """

    stream: str


@dataclass(frozen=True)
class Drawing:
    """Calls a module with keys drawn from the rngs that it keeps; the rest as without it.

    Attributes:
      keys: Stream by call argument.
      method: What is called otherwise, as the wrapper's `nnx_method`.
    """

    keys: tuple[tuple[str, str], ...]
    method: Any = None

    def __call__(self, module: Any, x: Any, **more: Any) -> Any:
        """The method's output."""
        rngs = getattr(module, KEPT_RNGS)
        drawn = {name: rngs[stream]() for name, stream in self.keys}
        return call(module, x, {**more, **drawn, METHOD: self.method})


def call(module: Any, x: Any, arguments: Mapping[str, Any]) -> Any:
    """The output of a native module for x and the call arguments that the wrapper gets."""
    return call_with(module, (x,), arguments)


def call_with(module: Any, args: Sequence[Any], arguments: Mapping[str, Any]) -> Any:
    """As `call`, with any number of positional arguments."""
    given = dict(arguments)
    method: str | Callable[..., Any] | None = given.pop(METHOD, None)
    if method is None:
        return module(*args, **given)
    return getattr(module, method)(*args, **given) if isinstance(method, str) else method(module, *args, **given)


def put(tree: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """`tree` with `value` at a dotted place in it."""
    first, _, rest = name.partition(".")
    return {**tree, first: put(tree.get(first, {}), rest, value) if rest else value}
