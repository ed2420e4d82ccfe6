"""A saved run, ready to apply again: the layer from the record's settings, the variables from the checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from runner.arrays import checkpoint, devices, trees
from runner.arrays.mesh import make_mesh, on_one_device
from runner.bridge import native, targets, wrap
from runner.bridge.wrap import Bridged
from runner.config import env_secrets
from runner.config.enums import InputKind
from runner.config.run_settings import DistributedSettings
from runner.config.serialize import from_data
from runner.config.settings import Run
from runner.errors import ConfigError, StorageError, UserError
from runner.experiment import inputs
from runner.experiment import program as programs
from runner.experiment.program import Draft
from runner.records import files, find, removal, store
from runner.records.paths import RunFolder
from runner.records.record import Leaf, Record, Status

KINDS = ("linen", "nnx")

Places = Mapping[str, Sharding]


@dataclass(frozen=True, kw_only=True)
class Reloaded:
    """A saved run, ready to apply.

    Attributes:
      module: The `flax.linen.Module`, or with `as_="nnx"` the native `nnx.Module` with the variables in it.
      variables: The Linen variable dict, `module.apply(variables, x, rngs=rngs)`.
      x: The input that the run was applied to.
      rngs: Keys that apply gave to every stream but `params`.
      mutable: Collections that apply may change.
      call: Keyword arguments of every call.
      settings: The run's config.
      record: What the run left.
    """

    module: Any
    variables: Any
    x: np.ndarray
    rngs: Mapping[str, jax.Array]
    mutable: tuple[str, ...]
    call: Mapping[str, Any]
    settings: Run
    record: Record

    def apply(self, x: Any = None) -> Any:
        """The output for `x`, by default the recorded input; compiled, as in the run. It may change a native module."""
        x = self.x if x is None else x
        if isinstance(self.module, nnx.Module):
            return nnx.jit(lambda module, x: module(x, **self.call))(self.module, x)
        bridged = Bridged(model=self.module, call=self.call)
        return jax.jit(lambda variables, x: bridged.apply(variables, self.rngs, self.mutable, x)[0])(self.variables, x)


def reload(
    run: str | Path,
    *,
    as_: str = "linen",
    device: str | None = None,
    dtype: str | None = None,
    sharding: Any = None,
    only: Sequence[str] | None = None,
    trust: bool = False,
) -> Reloaded:
    """The module, variables and settings of a saved run.

    Every leaf is compared with its digest in the record. The native module's rng streams are those that apply gave the
    layer (`bridge.apply_keys`), so that its first call draws what apply drew.

    Args:
      run: The run's folder.
      as_: `linen` or `nnx`.
      device: Where the variables go: `cpu`, `gpu:1`, …; None leaves them on the host, for JAX to place.
      dtype: Floating leaves are cast to it.
      sharding: Where the variables go, each device reading only its own part: a `jax.sharding.Sharding` for all
        leaves, a tree of them like the variables, or a `Mesh`, which cuts each leaf as the record says (what it can't
        cut, or has no axis for, is on all its devices).
      only: Collections or paths (`params`, `params/kernel`); other leaves are left out, or stay as the native
        constructor made them.
      trust: Whether modules that are neither ours nor flax's may be imported.

    Raises:
      UserError: No such run, a damaged one, one that imports what is not trusted, or an unknown choice.
    """
    if as_ not in KINDS:
        raise ConfigError("as_", as_, "a run reloads as linen or nnx", "as_=nnx")
    folder = find.find_run(Path(run))
    record = store.read_record(folder)
    if record.status is Status.failed and not record.variables:
        raise UserError(f"{folder.path}: the run failed before it had variables", f"bridge-runner show {folder.path}")
    config = config_of(record)
    require_trust(config, trust=trust)
    variables = read_variables(folder, record, None if sharding is None else _places(record, sharding))
    draft = rebuild(folder, config)
    variables = trees.with_keys_of(variables, draft.needs.variables)
    placed = _placed(_chosen(variables, only), device if sharding is None else None, dtype)
    module: Any = draft.model.model
    if as_ == "nnx":
        if draft.model.construct is None:
            raise UserError(
                f"{folder.path} is a run of the host {record.host}, which has no native module", 'as_="linen"'
            )
        own = wrap.apply_keys(wrap.root_key(config.seed), draft.needs.streams)
        # Of a mesh, axis names may be in the layer: flax would want a mesh to be set, to place what is replaced here.
        with nnx.use_eager_sharding(False) if record.mesh else contextlib.nullcontext():
            module = native.with_variables(draft.layer, placed, own, cast=dtype is not None)
    return Reloaded(
        module=module,
        variables=placed,
        x=make_input(folder, config),
        rngs=wrap.apply_keys(wrap.root_key(config.seed), draft.rngs),
        mutable=draft.mutable,
        call=draft.model.call,
        settings=config,
        record=record,
    )


def config_of(record: Record) -> Run:
    """The config of a saved run; what it took from the environment is taken from there again.

    Raises:
      ConfigError: A variable is not set.
    """
    return from_data(env_secrets.resolve(record.settings))


def require_trust(run: Run, *, trust: bool) -> None:
    """Refuses to import what a stranger's record names, unless that is allowed.

    Raises:
      UserError: It names a module that is neither ours nor flax's or jax's.
    """
    foreign = [] if trust else targets.foreign_paths(run)
    if foreign:
        names = ", ".join(foreign)
        raise UserError(f"rebuilding this run imports {names}, which runs its code", "the same with --trust")


def read_variables(folder: RunFolder, record: Record, places: Places | None = None) -> Any:
    """The variables in the run's checkpoint, each leaf compared with its digest; `{}` of a run without any.

    Args:
      folder: The run's folder.
      record: Its record.
      places: The sharding of each leaf by its path; None gives NumPy leaves.

    Raises:
      StorageError: There is no checkpoint, or it is not what was saved; every leaf that differs is named.
    """
    if record.checkpoint is None and not record.variables:
        return {}
    if record.checkpoint is None:
        raise StorageError(f"{folder.path} has no checkpoint", "checkpoint=orbax")
    if record.checkpoint.removed is not None:
        raise StorageError(f"{folder.path}: {removal.sentence(record)}", removal.again(record))
    path = folder.path / record.checkpoint.path
    try:
        variables = checkpoint.restore(path) if places is None else checkpoint.restore_onto(path, places.__getitem__)
    except checkpoint.CheckpointError as error:
        raise StorageError(f"{path} can't be restored: {error.__cause__ or error}") from error
    found = {leaf.name: leaf for leaf in trees.leaves(variables)}
    kept = {leaf.name: leaf for leaf in record.variables}
    wrong = [f"{name} is missing" for name in kept.keys() - found.keys()]
    wrong += [f"{name} was not saved by this run" for name in found.keys() - kept.keys()]
    wrong += [
        f"{name} has other bits" for name in kept.keys() & found.keys() if kept[name].digest != found[name].digest
    ]
    if wrong:
        raise StorageError(f"{path} is not what the run saved: {', '.join(sorted(wrong))}")
    return variables


def rebuild(folder: RunFolder, run: Run) -> Draft:
    """The traced program of a saved run, on its device or mesh as far as they are here (see `here`).

    Raises:
      UserError: The layer can't be built here.
    """
    config = dataclasses.replace(run, variables=None, input=saved_input(folder, run), device=here(run.device))
    identity = programs.identify(config)
    return programs.draft(dataclasses.replace(config, mesh=mesh_here(config)), identity)


def saved_input(folder: RunFolder, run: Run) -> Any:
    """The run's input settings; an input file is the copy in the run's folder."""
    if run.input.kind is not InputKind.file:
        return run.input
    return dataclasses.replace(run.input, path=str(files.inside(folder, folder.input.name)))


def here(device: str) -> str:
    """`device` if it is there, else the CPU."""
    try:
        devices.find_device(device)
    except UserError:
        return "cpu"
    return device


def mesh_here(run: Run) -> dict[str, int] | None:
    """The mesh of `run` if its devices are there, else one device that has its axes: flax may want their names."""
    if run.mesh is None or math.prod(run.mesh.values()) <= len(devices.all_devices(run.device)):
        return run.mesh
    return on_one_device(run).mesh


def in_one_process(record: Record) -> Run:
    """The config of a saved run for one process, with as many CPU devices as all its processes had."""
    run = config_of(record)
    num_processes = record.mesh.num_processes if record.mesh else 1
    num_cpu_devices = run.num_cpu_devices * num_processes
    return dataclasses.replace(run, distributed=DistributedSettings(), num_cpu_devices=num_cpu_devices)


def own_places(record: Record) -> Places | None:
    """Where the leaves of a run were, if it ran on a mesh and its devices are here, by their paths."""
    if record.mesh is None:
        return None
    run = in_one_process(record)
    run = dataclasses.replace(run, device=here(run.device))
    mesh = make_mesh(dataclasses.replace(run, mesh=mesh_here(run)))
    return _places(record, mesh)


def make_input(folder: RunFolder, run: Run) -> Any:
    """The x that the run was applied to."""
    return inputs.make_input(saved_input(folder, run), run.input_shape)


def _chosen(variables: Any, only: Sequence[str] | None) -> Any:
    if only is None:
        return variables
    names = {trees.spell(path): path for path, _ in trees.flatten(variables)}
    chosen: dict[Any, Any] = {}
    for wanted in only:
        prefix = wanted.strip("/")
        found = [name for name in names if name == prefix or name.startswith(f"{prefix}/")]
        if not found:
            raise ConfigError("only", wanted, f"the run has {', '.join(names)}", f"only=['{next(iter(names))}']")
        chosen |= dict.fromkeys(found)
    return trees.select(variables, lambda path: trees.spell(path) in chosen)


def _places(record: Record, sharding: Any) -> Places:
    """The sharding of every leaf of a run, by its path.

    Raises:
      ConfigError: `sharding` names none for a leaf, or one that its shape can't have.
    """
    places: dict[str, Any]
    if isinstance(sharding, Mesh):
        places = {leaf.name: NamedSharding(sharding, _fitting(leaf, sharding)) for leaf in record.variables}
    elif isinstance(sharding, Sharding):
        places = {leaf.name: sharding for leaf in record.variables}
    else:
        places = {trees.spell(path): leaf for path, leaf in trees.flatten(sharding)}
    for leaf in record.variables:
        try:
            places[leaf.name].shard_shape(tuple(leaf.shape))
        except Exception as error:
            reason = f"it has no sharding for {leaf.name} {leaf.dtype}{leaf.shape}: {error}"
            what = f"sharding={type(sharding).__name__}: {reason}".rstrip(".")
            raise UserError(what, "sharding=Mesh(…), or a jax.sharding.Sharding, or a tree of them") from error
    return places


def _fitting(leaf: Leaf, mesh: Mesh) -> PartitionSpec:
    """How `leaf` was cut in its run, as far as `mesh` can cut it so."""
    spec = []
    for size, along in zip(leaf.shape, leaf.spec or (), strict=False):
        names = tuple(name for name in (along if isinstance(along, list) else [along]) if name in mesh.shape)
        cut = names and size % math.prod(mesh.shape[name] for name in names) == 0
        spec.append((names[0] if len(names) == 1 else names) if cut else None)
    return PartitionSpec(*spec)


def _placed(variables: Any, device: str | None, dtype: str | None) -> Any:
    if dtype is not None:
        try:
            wanted = jnp.dtype(dtype)
        except TypeError:
            raise ConfigError("dtype", dtype, "no such dtype", "dtype=bfloat16") from None
        variables = jax.tree.map(
            lambda leaf: leaf.astype(wanted) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, variables
        )
    return variables if device is None else jax.device_put(variables, devices.find_device(device))
