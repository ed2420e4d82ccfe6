"""Placement of a program's arrays: on one device, or on a mesh, sharded by the axis names of its variables.

The names are those that a layer gives its variables (`nnx.with_partitioning`, `bridge.with_partitioning`, the
metadata of a Param): a mesh axis, or a logical name that `mesh.rules`, or the variable's own rules, map to one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import meta
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from runner.arrays import devices, trees
from runner.config.settings.run import Run
from runner.errors import ConfigError, UserError, literal
from runner.records.record import MeshInfo

Rules = Mapping[str, Any]

# Name of the input in error messages, next to the paths of variables.
X, X_KEY = "x", "mesh.input"

SPELL_AXES = "out_sharding with one name, or None, for every axis of the array"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Placement of a program's arrays.

    Attributes:
      device: The device, or the first one of this process in the mesh.
      mesh: The mesh; None for one device.
      rules: The mesh axis that each logical axis name maps to.
      x: Sharding of the input.
      specs: Sharding of each leaf of the variables, by its path as one string; leaves not in it are replicated.
      eager_sharding: Whether Flax places variables by their axis names as they are made.
    """

    device: jax.Device
    mesh: Mesh | None = None
    rules: Rules = field(default_factory=dict)
    x: PartitionSpec = field(default_factory=PartitionSpec)
    specs: Mapping[str, PartitionSpec] = field(default_factory=dict)
    eager_sharding: bool = True

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """The context that Flax and JAX need while the program is traced, compiled or run."""
        if self.mesh is None:
            by_name = contextlib.nullcontext() if self.eager_sharding else nnx.use_eager_sharding(False)
            with jax.default_device(self.device), by_name:
                yield
        else:
            with jax.set_mesh(self.mesh), nnx.logical_axis_rules(tuple(self.rules.items())):
                yield

    def put(self, tree: Any) -> Any:
        """Puts `tree` on the device, or replicates it over the mesh."""
        return jax.device_put(tree, self._sharding(PartitionSpec()))

    def put_x(self, x: Any) -> jax.Array:
        """Puts the input on its device or mesh."""
        return jax.device_put(x, self._sharding(self.x))

    def put_variables(self, variables: Any) -> Any:
        """Puts a variable dict on its device or mesh, and waits until it is ready."""
        if self.mesh is not None:
            return jax.block_until_ready(jax.device_put(variables, self.shardings(variables)))
        with jax.default_device(self.device):
            if not any(map(trees.is_packed, jax.tree.leaves(variables))):
                return jax.block_until_ready(jax.device_put(variables, self.device))
            # JAX 0.10: compiled functions refuse a 4-bit array that was put on a named device, for its layout.
            return jax.block_until_ready(
                jax.tree.map(
                    lambda leaf: jnp.asarray(leaf) if trees.is_packed(leaf) else jax.device_put(leaf, self.device),
                    variables,
                )
            )

    def shardings(self, variables: Any) -> Any:
        """A sharding for every leaf, or metadata box, of `variables`; None for one device."""
        return None if self.mesh is None else _map(lambda path, _: self._leaf(path), variables)

    def shapes(self, variables: Any) -> Any:
        """Shapes and dtypes of `variables`, with their shardings."""
        if self.mesh is None:
            return variables
        return _map(lambda path, leaf: jax.tree.map(lambda one: _told(one, self._leaf(path)), leaf), variables)

    def shape(self, array: jax.ShapeDtypeStruct, *, x: bool = False) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the input (`x`) or of a replicated array, with its sharding."""
        return array if self.mesh is None else _told(array, self._sharding(self.x if x else PartitionSpec()))

    def alone(self) -> Placement:
        """The same on one device: a mesh with the same axes, each of size 1, since Flax may need their names."""
        if self.mesh is None:
            return self
        return Placement(
            device=self.device, mesh=_mesh(dict.fromkeys(self.mesh.shape, 1), [self.device]), rules=self.rules
        )

    def info(self) -> MeshInfo | None:
        """The mesh as stored in a record; None for one device."""
        if self.mesh is None:
            return None
        there = list(self.mesh.devices.flat)
        return MeshInfo(
            axes=dict(self.mesh.shape),
            devices=[devices.device_name(device) for device in there],
            x=[list(axes) if isinstance(axes, tuple) else axes for axes in self.x],
            num_processes=len({device.process_index for device in there}),
        )

    def _leaf(self, path: trees.Path) -> NamedSharding:
        return self._sharding(self.specs.get(trees.spell(path), PartitionSpec()))

    def _sharding(self, spec: PartitionSpec) -> Any:
        return self.device if self.mesh is None else NamedSharding(self.mesh, spec)


def on_device(device: jax.Device, *, eager_sharding: bool = True) -> Placement:
    """Placement on one device; see `Placement` for `eager_sharding`."""
    return Placement(device=device, eager_sharding=eager_sharding)


def on_mesh(run: Run, mesh: Mesh, x: jax.ShapeDtypeStruct, variables: Any) -> Placement:
    """Placement on the mesh of `run`.

    Args:
      run: Provides `mesh.input` and `mesh.rules`.
      mesh: A mesh made by `make_mesh`.
      x: Shape of the input.
      variables: Shapes of the variables, in their metadata boxes.

    Raises:
      ConfigError: A name is not an axis of the mesh, or an axis can't be sharded this way.
    """
    specs = {}
    for path, leaf in trees.flatten(variables):
        name = trees.spell(path)
        if trees.is_packed(trees.unbox(leaf)) and mesh.size > 1:
            reason = f"{name} is {trees.unbox(leaf).dtype}, which JAX passes on to no program over several devices"
            raise ConfigError("mesh.axes", run.mesh.axes, reason, "mesh.axes=null")
        specs[name] = _spec(name, mesh_axes(leaf, run.mesh.rules), jax.tree.leaves(leaf)[0].shape, run)
    mine = next(device for device in mesh.devices.flat if device.process_index == jax.process_index())
    return Placement(
        device=mine, mesh=mesh, rules=run.mesh.rules, x=_spec(X, _x_axes(run, x), x.shape, run), specs=specs
    )


def make_mesh(run: Run) -> Mesh | None:
    """Builds the mesh of `run` from the first devices of its platform, across all processes; None if it has no mesh.

    Raises:
      ConfigError: There are too few devices.
    """
    if run.mesh.axes is None:
        return None
    there, wanted = devices.all_devices(run.device), math.prod(run.mesh.axes.values())
    if wanted > len(there):
        platform = devices.platform_name(there[0])
        here = f"here {'are' if len(there) > 1 else 'is'} {len(there)} of the kind {platform}"
        fix = f"process.num_cpu_devices={math.ceil(wanted / jax.process_count())} 'mesh.axes={literal(run.mesh.axes)}'"
        fix = fix if platform == "cpu" else f"'mesh.axes={literal({next(iter(run.mesh.axes)): len(there)})}'"
        raise ConfigError("mesh.axes", run.mesh.axes, f"it takes {wanted} devices, and {here}", fix)
    if wanted < len(there) and jax.process_count() > 1:
        reason = f"it takes {wanted} devices, and the {jax.process_count()} processes have {len(there)} together"
        raise ConfigError(
            "mesh.axes", run.mesh.axes, reason, f"'mesh.axes={literal({next(iter(run.mesh.axes)): len(there)})}'"
        )
    return _mesh(run.mesh.axes, there[:wanted])


def on_one_device(run: Run) -> Run:
    """`run` on one CPU device of this machine; its mesh keeps its axes, since Flax may need their names."""
    axes = None if run.mesh.axes is None else dict.fromkeys(run.mesh.axes, 1)
    return dataclasses.replace(run, device="cpu", mesh=dataclasses.replace(run.mesh, axes=axes))


def fitted(run: Run) -> Run:
    """`run` if its devices are available here; otherwise on the CPU, on one device with the axes of its mesh."""
    try:
        devices.find_device(run.device)
    except UserError:
        run = dataclasses.replace(run, device="cpu")
    if run.mesh.axes is None or math.prod(run.mesh.axes.values()) <= len(devices.all_devices(run.device)):
        return run
    return dataclasses.replace(run, mesh=on_one_device(run).mesh)


def mesh_axes(box: Any, rules: Rules = MappingProxyType({})) -> tuple[Any, ...]:
    """Maps a metadata box's axis names to mesh axes: `rules`, and the box's own, resolve logical names."""
    metadata = getattr(box, "metadata", {})
    own = dict(getattr(box, "rules", None) or metadata.get("sharding_rules") or ())
    known = {**own, **rules}
    axes = (known.get(name, name) for name in trees.axis_names(box) or ())
    return _hashable(axes)


def _spec(what: str, axes: Sequence[Any], shape: Sequence[int], run: Run) -> PartitionSpec:
    """`axes` as the partition spec of an array of `shape`, if it fits; `what` is x or a variable's path."""
    sizes = run.mesh.axes or {}
    key, got = (X_KEY, run.mesh.input) if what == X else ("mesh.axes", run.mesh.axes)
    names = _names(axes)
    if unknown := [name for name in names if name not in sizes]:
        reason = f"{what} has the axis name {unknown[0]}, and the mesh has {', '.join(sizes)}"
        axis = next(iter(sizes))
        fix = f"'{X_KEY}=[{axis}]'" if what == X else f"'mesh.rules={{{unknown[0]}:{axis}}}'"
        raise ConfigError(key, got, reason, fix)
    spelling = f"'{X_KEY}=[]'" if what == X else SPELL_AXES
    if len(axes) > len(shape):
        raise ConfigError(key, got, f"{what} has {len(shape)} axes and {len(axes)} names", spelling)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(key, got, f"{what} is cut along {twice[0]} twice", spelling)
    for index, (size, along) in enumerate(zip(shape, map(_names, zip(axes)), strict=False)):
        if size % math.prod(sizes[name] for name in along):
            cut = ", ".join(f"{name}={sizes[name]}" for name in along)
            reason = f"axis {index} of {what} has {size} elements, which {cut} can't cut into equal parts"
            fitting = {name: math.gcd(sizes[name], size) if len(along) == 1 else 1 for name in along}
            fix = spelling if what == X else f"'mesh.axes={literal(sizes | fitting)}'"
            raise ConfigError(key, got, reason, fix)
    return PartitionSpec(*axes, *[None] * (len(shape) - len(axes)))


def _x_axes(run: Run, x: jax.ShapeDtypeStruct) -> tuple[Any, ...]:
    """The mesh axes that x is sharded over."""
    if run.mesh.input is not None:
        return _hashable(run.mesh.input)
    first, size = next(iter((run.mesh.axes or {}).items()))
    # A single axis means the feature axis.
    return (first,) if len(x.shape) > 1 and x.shape[0] % size == 0 else ()


def _hashable(axes: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(tuple(one) if isinstance(one, (list, tuple)) else one for one in axes)


def _names(axes: Iterable[Any]) -> list[str]:
    """The names in `axes`; each entry is one name, several, or None."""
    return [name for one in axes if one is not None for name in (one if isinstance(one, tuple) else (one,))]


def _mesh(sizes: Mapping[str, int], there: Sequence[jax.Device]) -> Mesh:
    kinds = (AxisType.Auto,) * len(sizes)  # Flax shards variables on meshes of one axis type, and the bridge's are auto
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=list(there))


def _told(array: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _map(function: Callable[[trees.Path, Any], Any], tree: Any) -> Any:
    """Maps `function(path, leaf)` over `tree`, with metadata boxes as leaves."""
    leaves = [function(path, leaf) for path, leaf in trees.flatten(tree)]
    structure = jax.tree.structure(tree, is_leaf=meta.is_axis_metadata)
    return jax.tree.unflatten(structure, leaves)
