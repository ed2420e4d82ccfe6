"""Which modules inside a layer are in training mode during a call, and what can switch them.

Each answer compares two traced programs: the call as it is, and the call after one attribute was set to another value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from flax import nnx

from runner.bridge.calling import calls

# What `nnx.Module.train` and `eval` set.
SWITCHES = ("deterministic", "use_running_average")

RATES = ("rate", "dropout_rate")

Path = tuple[Any, ...]
Construct = Callable[[Mapping[str, Any]], nnx.Module]


class Modes:
    """The modes of a layer that is built by `construct` and called with `x`.

    Args:
      construct: Builds the native module, some arguments of its constructor replaced.
      call: Keyword arguments of the call.
      x: Shape and dtype of the input.
    """

    def __init__(self, construct: Construct, call: Mapping[str, Any], x: jax.ShapeDtypeStruct) -> None:
        self._construct, self._call, self._x = construct, call, x
        self._plain: str | None = None

    def is_switched_by(self, path: Path) -> bool:
        """Whether the attribute at `path` switches the call, as a factory or `nnx.view` would set it."""
        return self._program({path: True}) != self._program({path: False})

    def is_training(self, path: Path) -> bool:
        """Whether the dropout or batch norm that has the attribute at `path` drops or counts in the call."""
        *owner, _ = path
        module = _at(nnx.eval_shape(lambda: self._construct({})), owner)
        if isinstance(module, nnx.BatchNorm):
            return self._program({(*owner, "momentum"): module.momentum / 2}) != self._program({})
        rates = [name for name in RATES if hasattr(module, name)]
        return bool(rates) and self._program({(*owner, rates[0]): 0.0}) != self._program({})

    def is_called_with(self, name: str) -> bool:
        """Whether the argument `name` of the call makes a difference; an error counts as one."""
        self._program({})  # raises where nothing can be asked
        try:
            return self._program({}, call={name: True}) != self._program({}, call={name: False})
        except Exception:  # noqa: BLE001 - it takes no truth value: then it is there to be set
            return True

    def is_stopped_by(self, name: str, paths: Iterable[Path]) -> bool:
        """Whether 0 for the argument `name` of the constructor stops the dropouts at `paths`."""
        try:
            module = nnx.eval_shape(lambda: self._construct({name: 0.0}))
            rates = [getattr(_at(module, owner), rate, None) for *owner, _ in paths for rate in RATES]
        except Exception:  # noqa: BLE001 - whatever the constructor says to 0
            return False
        return all(rate in (None, 0.0) for rate in rates)

    def _program(self, changed: Mapping[Path, Any], *, call: Mapping[str, Any] | None = None) -> str:
        """The traced call, as text, with the attributes in `changed` set on the module before."""
        if not changed and not call and self._plain is not None:
            return self._plain

        def run(x: Any) -> Any:
            module: Any = self._construct({})
            for (*owner, name), value in changed.items():
                setattr(_at(module, owner), name, value)
            output = calls.call(module, x, {**self._call, **(call or {})})
            return output, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState)))

        text = re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(run)(self._x)))
        if not changed and not call:
            self._plain = text
        return text


def switches(module: nnx.Module) -> dict[Path, Any]:
    """The attributes of the mode by path, except those of layers that drop nothing."""
    return {
        (*path, name): getattr(inner, name)
        for path, inner in nnx.iter_modules(module)
        for name in SWITCHES
        if hasattr(inner, name) and getattr(inner, "rate", getattr(inner, "dropout_rate", 1.0)) != 0
    }


def _at(module: Any, path: Iterable[Any]) -> Any:
    for part in path:
        module = getattr(module, part) if isinstance(part, str) and hasattr(module, part) else module[part]
    return module
