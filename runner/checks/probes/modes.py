"""Which modules inside a layer are in training mode during a call, and what can switch them.

Each answer compares two traced programs: the call as it is, and the call after one attribute, or one argument of the
call, was set to another value.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from runner.bridge.rngs import key_shape
from runner.bridge.tracing import jaxprs
from runner.bridge.tracing.captured import Captured
from runner.bridge.tracing.own_wrappers import SWITCHES
from runner.checks.probes import own_state, unwrapped
from runner.checks.programs import flow

RATES = ("rate", "dropout_rate")

DRAWS = "draws"

Path = tuple[Any, ...]


class Modes:
    """The modes of a wrapped layer in one of its calls.

    Args:
      call: The call, as its host makes it.
    """

    def __init__(self, call: Captured) -> None:
        construct = unwrapped.constructor(call.layer)
        assert construct is not None
        self.call, self._construct = call, construct
        self._known: dict[str, str] = {}

    def switches(self) -> dict[Path, Any]:
        """The attributes of the mode by path; see `switches`."""
        return switches(self.call.module)

    def is_switched_by(self, path: Path) -> bool:
        """Whether the attribute at `path` switches the call, as a factory or `nnx.view` would set it."""
        return self._program({path: True}) != self._program({path: False})

    def is_training(self, path: Path, **given: Any) -> bool:
        """Whether the dropout or batch norm that has the attribute at `path` drops or counts in the call."""
        quiet = self._quiet(path)
        return bool(quiet) and self._program(quiet, given) != self._program({}, given)

    def training(self, paths: Iterable[Path], **given: Any) -> list[Path]:
        """Those of `paths` that are in training mode, the call's arguments `given` replaced."""
        known = [path for path in paths if self._quiet(path)]
        quiet = {key: value for path in known for key, value in self._quiet(path).items()}
        if not quiet or self._program(quiet, given) == self._program({}, given):
            return []
        return [path for path in known if self.is_training(path, **given)]

    def arguments(self) -> list[str]:
        """The arguments of the call that take, or may take, a truth value."""
        found = []
        values = self.call.named
        for name, one in self.call.parameters.items():
            value = values.get(name, one.default)
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and (
                value is None or value is inspect.Parameter.empty or isinstance(value, bool)
            ):
                found.append(name)
        return found

    def is_known(self, path: Path) -> bool:
        """Whether tracing can tell if what has the attribute at `path` is in training mode."""
        return bool(self._quiet(path))

    def differs_by(self, name: str) -> bool:
        """Whether the argument `name` of the call makes a difference.

        Raises:
          Exception: What the layer raises if it takes no truth value there.
        """
        return self._program({}, {name: True}) != self._program({}, {name: False})

    def is_stopped_by(self, name: str, paths: Iterable[Path]) -> bool:
        """Whether 0 for the argument `name` of the constructor stops the dropouts at `paths`."""
        try:
            module = nnx.eval_shape(lambda: self._construct({name: 0.0}))
            rates = [getattr(at(module, owner), rate, None) for *owner, _ in paths for rate in RATES]
        except Exception:  # noqa: BLE001 - whatever the constructor says to 0
            return False
        return all(rate in (None, 0.0) for rate in rates)

    def effects(self, changed: Mapping[Path, Any] | None = None, **given: Any) -> set[str]:
        """What the call does besides its output: the variables that it changes, and `DRAWS` if it draws."""
        names: list[str] = []

        def run(key: Any, values: Sequence[Any], arrays: Sequence[Any]) -> Any:
            module = self.call.construct(nnx.Rngs(key))
            kept = own_state.kept(module)
            for (_, leaf), value in zip(kept, values, strict=True):
                leaf.set_value(value)
            _set(module, changed or {})
            output = self.call.run(module, arrays, **given)
            names[:] = ["/".join(map(str, path)) for path, _ in kept]
            return [leaf.get_value() for _, leaf in kept], output

        values = [jax.eval_shape(leaf.get_value) for _, leaf in own_state.kept(self.call.module)]
        closed = jax.make_jaxpr(run)(key_shape(), values, self.call.arrays)
        moved = jaxprs.changed(closed, range(len(names)))
        draws = flow.read(closed, [True] * len(closed.jaxpr.outvars))[0]
        return {name for name, one in zip(names, moved, strict=True) if one} | ({DRAWS} if draws else set())

    def _quiet(self, path: Path) -> dict[Path, Any]:
        """The attribute, and a value of it, that makes a difference in training mode alone."""
        *owner, _ = path
        module = at(self.call.module, owner)
        if isinstance(module, nnx.BatchNorm):
            return {(*owner, "momentum"): module.momentum / 2}
        rates = [name for name in RATES if hasattr(module, name)]
        return {(*owner, rates[0]): 0.0} if rates else {}

    def _program(self, changed: Mapping[Path, Any], given: Mapping[str, Any] | None = None) -> str:
        """The traced call, as text, with the attributes in `changed` set on the module before."""
        key = repr((sorted(changed.items(), key=str), given or {}))
        if key not in self._known:

            def run(arrays: Sequence[Any]) -> Any:
                module: Any = self.call.in_mode(self._construct({}))
                _set(module, changed)
                output = self.call.run(module, arrays, **(given or {}))
                return output, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState)))

            self._known[key] = re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(run)(self.call.arrays)))
        return self._known[key]


def switches(module: nnx.Module) -> dict[Path, Any]:
    """The attributes of the mode by path, except those of layers that drop nothing."""
    return {
        (*path, name): getattr(inner, name)
        for path, inner in nnx.iter_modules(module)
        for name in SWITCHES
        if hasattr(inner, name) and getattr(inner, "rate", getattr(inner, "dropout_rate", 1.0)) != 0
    }


def flags(module: nnx.Module) -> dict[Path, bool]:
    """The other attributes that are True or False, by path."""
    return {
        (*path, name): value
        for path, inner in nnx.iter_modules(module)
        for name, value in vars(inner).items()
        if isinstance(value, bool) and name not in SWITCHES and not name.startswith("_")
    }


def at(module: Any, path: Iterable[Any]) -> Any:
    """What lies at `path` in a module: attributes, and items of lists and dicts."""
    for part in path:
        module = getattr(module, part) if isinstance(part, str) and hasattr(module, part) else module[part]
    return module


def _set(module: Any, changed: Mapping[Path, Any]) -> None:
    for (*owner, name), value in changed.items():
        setattr(at(module, owner), name, value)
