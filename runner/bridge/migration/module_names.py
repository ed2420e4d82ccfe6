"""Records by tracing which names Linen gave to the modules of a model, in order, and what each module is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import linen as nn

from runner.arrays.alignment import AUTO_NAME, Child, Path
from runner.bridge.rngs import key_shape
from runner.bridge.wrap import Bridged


@dataclass(frozen=True, kw_only=True)
class ModuleNames:
    """The modules of a model.

    Attributes:
      creation: The names in every module by its path, in the order in which Linen gave them.
      kinds: What every module is: its class, for a wrapped layer the NNX class too.
      setups: The modules that make others in `setup`, where an attribute's name is the module's.
    """

    creation: Mapping[Path, Sequence[Child]] = field(default_factory=dict)
    kinds: Mapping[Path, str] = field(default_factory=dict)
    setups: Collection[Path] = ()

    def is_wrapped(self, path: Iterable[Any]) -> bool:
        """Whether a leaf at `path` (without its collection) is of an NNX layer in Linen."""
        return "(" in (self.owner(tuple(map(str, path))) or "")

    def owner(self, path: Path) -> str | None:
        """What the innermost Linen module above a leaf at `path` (without its collection) is; None if not known."""
        for cut in range(len(path) - 1, -1, -1):
            if path[:cut] in self.kinds:
                return self.kinds[path[:cut]]
        return None


def trace_modules(layer: Bridged, streams: Sequence[str], x: Any) -> ModuleNames:
    """Traces init, and records every module that Linen calls; nothing is computed."""
    reserved: dict[Path, list[str]] = {}
    classes: dict[Path, str] = {}
    kinds: dict[Path, str] = {}
    setups: set[Path] = set()

    def watch(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = method(*args, **kwargs)
        module, scope = context.module, context.module.scope
        if scope is not None:
            path = tuple(map(str, scope.path))
            names = reserved.setdefault(path, [])
            names += [name for name in map(str, scope.reservations) if name not in names]
            classes.setdefault(path, type(module).__name__)
            kinds.setdefault(path, _kind(module))
            if type(module).setup is not nn.Module.setup:
                setups.add(path)
        return result

    def init(key: jax.Array, x: jax.Array) -> Any:
        with nn.intercept_methods(watch):
            return layer.init(key, streams, x)

    jax.eval_shape(init, key_shape(), x)
    creation = {path: _children(path, names, classes) for path, names in reserved.items()}
    return ModuleNames(creation=creation, kinds=kinds, setups=setups)


def _children(path: Path, names: Sequence[str], classes: Mapping[Path, str]) -> list[Child]:
    """The children with their classes; Linen chose a name if it is the class with the number that was due."""
    due: Counter[str] = Counter()
    found = []
    for name in names:
        match = AUTO_NAME.fullmatch(name)
        cls = classes.get((*path, name), match[1] if match else name)
        auto = name == f"{cls}_{due[cls]}"
        due[cls] += auto
        found.append(Child(name, cls, auto))
    return found


def _kind(module: nn.Module) -> str:
    own = f"{type(module).__module__}.{type(module).__qualname__}"
    # A description may hold an address, which differs between two equal modules.
    inner = re.sub(r" at 0x\w+", "", str(vars(module).get("nnx_class", "")))
    return f"{own}({inner})" if inner else own
