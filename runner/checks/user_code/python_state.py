"""State that a layer keeps in Python: attributes and lists that a call changes, which no variable holds.

Linen rebuilds the module for every apply, so such a change is gone before the next call. The native module is called
once in a trace; what the call left in its attributes is set on a module as it was before, and the two programs are
compared. A counter that nothing reads makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx

from runner.bridge.calling import calls
from runner.bridge.layers import axes
from runner.checks.probes import unwrapped
from runner.checks.programs import flow
from runner.checks.user_code import hidden_params, own_rng_state, python_values

# The path of a module, and the name of an attribute.
Place = tuple[tuple[Any, ...], str]

# Steps on, a counter may have passed what the layer compares it with.
MUCH_LATER = 1_000_003


@dataclass(frozen=True, kw_only=True)
class PythonState:
    """What a call leaves in Python.

    Attributes:
      read: Attributes that a call changes and the next call of the same module reads.
      running: Attributes that are arrays, and get a value that comes from their old one.
    """

    read: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.read or self.running)


@dataclass(frozen=True, kw_only=True)
class Native:
    """What one construction and one call of the native module of a wrapped layer show.

    Attributes:
      kind: The class of the module; None where it is none.
      kinds: The classes of the module and of those inside.
      arrays: Attributes that are NumPy arrays, by their dotted names.
      state: What the call leaves in Python, or the error that kept it from being found.
      hidden: Attributes that are no tree, with Params that the module's state has not; see `hidden_params`.
      held_twice: The same with Params of its state.
      transformed: Variables, by name, whose type gives another value than it holds.
      rng_state: Keys and counts of its own that the next apply has not; see `own_rng_state.lost`.
    """

    kind: type | None = None
    kinds: list[type] = field(default_factory=list)
    arrays: list[tuple[str, np.ndarray]] = field(default_factory=list)
    state: PythonState | Exception = PythonState()
    hidden: list[str] = field(default_factory=list)
    held_twice: list[str] = field(default_factory=list)
    transformed: list[str] = field(default_factory=list)
    rng_state: dict[str, bool] = field(default_factory=dict)


def placed(path: str, name: str) -> str:
    """The dotted place in a host of an attribute of the layer at `path`, which is '' for the layer alone."""
    return ".".join([*path.split("/"), name] if path else [name])


def find(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Native:
    """What the native module of a wrapped layer shows; nothing of another Linen module.

    Args:
      model: The wrapped layer.
      args: What a call gets by position; arrays may be given as shapes and dtypes.
      kwargs: The same by name.
    """
    construct = unwrapped.constructor(model)
    found: list[Native] = []
    if construct is None:
        return Native()

    def trace() -> None:
        module = construct({})
        nodes = list(nnx.iter_graph(module))  # once: NNX looks into every container
        inside = [(path, node) for path, node in nodes if isinstance(node, nnx.Module)]
        arrays = [
            (".".join(map(str, (*path, name))), value)
            for path, inner in inside
            for name, value in vars(inner).items()
            if isinstance(value, np.ndarray)
        ]
        call = _Call(args, kwargs)
        state = _state_of(module, call)
        lost: dict[str, bool] = {}
        if not isinstance(state, Exception):
            lost = own_rng_state.lost(lambda rngs: axes.construct(model, rngs), module, nodes, call)
        hidden, held_twice = hidden_params.of(nodes)
        found.append(
            Native(
                kind=type(module),
                kinds=[type(inner) for _, inner in inside],
                arrays=arrays,
                state=state,
                hidden=hidden,
                held_twice=held_twice,
                transformed=_transformed(nodes),
                rng_state=lost,
            )
        )

    jax.eval_shape(trace)
    return found[0]


def _transformed(nodes: Iterable[tuple[Any, Any]]) -> list[str]:
    variables = [(path, node) for path, node in nodes if isinstance(node, nnx.Variable)]
    own = [(path, node) for path, node in variables if type(node).get_value is not nnx.Variable.get_value]
    return [".".join(map(str, path)) for path, node in own if node.get_value() is not node.get_raw_value()]


def _state_of(module: Any, call: _Call) -> PythonState | Exception:
    try:
        return _Probe(module, call).found()
    except Exception as error:  # noqa: BLE001 - a module that can't be split and merged, or a call that raises
        return error


class _Call:
    """A call whose arrays are given apart from what else it gets."""

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._leaves, self._structure = jax.tree.flatten((tuple(args), dict(kwargs)))
        self.arrays = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in self._leaves if hasattr(one, "dtype")]

    def __call__(self, module: Any, arrays: Sequence[Any]) -> Any:
        """The output of the module's call on these arrays."""
        given = iter(arrays)
        leaves = [next(given) if hasattr(leaf, "dtype") else leaf for leaf in self._leaves]
        args, kwargs = jax.tree.unflatten(self._structure, leaves)
        return calls.call_with(module, args, kwargs)


class _Probe:
    """Calls copies of one native module, all within one trace."""

    def __init__(self, module: Any, call: _Call) -> None:
        self.graph, self.state = nnx.split(module)
        self.call = call
        self.before = _attributes(nnx.merge(self.graph, self.state), copied=True)

    def found(self) -> PythonState:
        """What a call leaves in Python."""
        after: dict[Place, Any] = {}
        first = self._traced({}, after)
        changed = {
            place: value for place, value in after.items() if not python_values.same(value, self.before.get(place))
        }
        if not changed:
            return PythonState()
        running = [place for place, value in changed.items() if self._is_running(place, value)]
        read = []
        for place, value in changed.items():
            if python_values.is_traced(value):
                is_read = self._is_of_x(place) and self._reads(place, value)
            else:
                later = [value, MUCH_LATER] if type(value) is int else [value]
                is_read = any(self._differs(_text(first), {place: one}) for one in later)
            if is_read:
                read.append(place)
        return PythonState(read=_names(read), running=_names(running))

    def _differs(self, first: str, changed: Mapping[Place, Any]) -> bool:
        try:
            return _text(self._traced(changed, {})) != first
        except Exception:  # noqa: BLE001 - a second call that raises is another one
            return True

    def _traced(self, changed: Mapping[Place, Any], after: dict[Place, Any]) -> Any:
        """The jaxpr of the call, with attributes `changed` before; what they are after it is put into `after`."""

        def run(state: Any, arrays: Any) -> Any:
            module: Any = nnx.merge(self.graph, state)
            _restore(module, {**self.before, **changed})
            output = self.call(module, arrays)
            after.update(_attributes(module))
            return output, nnx.to_pure_dict(nnx.state(module, nnx.Variable))

        return jax.make_jaxpr(run)(self.state, self.call.arrays)

    def _is_running(self, place: Place, value: Any) -> bool:
        """Whether an array attribute is replaced by one that is made of it."""
        old = self.before.get(place)
        if not isinstance(old, (jax.Array, np.ndarray)) or not python_values.is_traced(value):
            return False
        return any(map(any, self._flow(place, old, outputs=False)))

    def _is_of_x(self, place: Place) -> bool:
        """Whether the call makes the attribute from x: what it makes of the variables, it can make again."""
        return any(self._flow(place, self.before.get(place), outputs=False)[1])

    def _reads(self, place: Place, value: Any) -> bool:
        """Whether the output of a call reads arrays that the last one left in the attribute."""
        try:
            return any(self._flow(place, value, outputs=True)[0])
        except Exception:  # noqa: BLE001 - a second call that raises is another one
            return True

    def _flow(self, place: Place, value: Any, *, outputs: bool) -> tuple[list[bool], list[bool]]:
        """Whether the outputs, or else the attribute afterwards, depend on arrays in it before; and on the input."""
        leaves, structure = jax.tree.flatten(value)
        inputs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves if hasattr(leaf, "shape")]

        def run(given: Any, arrays: Any, state: Any) -> Any:
            old = iter(given)
            put = jax.tree.unflatten(structure, [next(old) if hasattr(leaf, "shape") else leaf for leaf in leaves])
            module: Any = nnx.merge(self.graph, state)
            _restore(module, {**self.before, place: put} if place in self.before or outputs else self.before)
            output = self.call(module, arrays)
            if outputs:
                return output, nnx.to_pure_dict(nnx.state(module, nnx.Variable))
            return [leaf for leaf in jax.tree.leaves(_attributes(module)[place]) if hasattr(leaf, "shape")]

        closed = jax.make_jaxpr(run)(inputs, self.call.arrays, self.state)
        read = flow.read(closed, [True] * len(closed.jaxpr.outvars))
        return read[: len(inputs)], read[len(inputs) :][: len(self.call.arrays)]


def _text(closed: Any) -> str:
    """A traced call as text, with the NumPy arrays that are baked in."""
    consts = "".join(str(np.asarray(one)) for one in closed.consts if isinstance(one, (np.ndarray, np.generic)))
    return re.sub(r"0x[0-9a-f]+", "", str(closed)) + consts


def _attributes(module: Any, *, copied: bool = False) -> dict[Place, Any]:
    """Attributes of every module inside that are no module and no variable, by its path and their name."""
    found = {}
    for path, inner in nnx.iter_modules(module):
        for name, value in vars(inner).items():
            held = jax.tree.leaves(value, is_leaf=lambda node: isinstance(node, python_values.NODES))
            if not name.startswith("_pytree__") and not any(isinstance(one, python_values.NODES) for one in held):
                found[path, name] = python_values.copied(value) if copied else value
    return found


def _restore(module: Any, values: Mapping[Place, Any]) -> None:
    inside = dict(nnx.iter_modules(module))
    for (path, name), value in values.items():
        if path in inside:
            vars(inside[path])[name] = python_values.copied(value)


def _names(places: list[Place]) -> list[str]:
    return [".".join(map(str, (*path, name))) for path, name in places]
