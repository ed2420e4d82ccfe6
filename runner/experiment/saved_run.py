"""Reloads a saved run, ready to apply: the layer from the record's settings, the variables from the checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import html
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
from runner.arrays.mesh import fitted, make_mesh
from runner.bridge import native
from runner.bridge.calling import calls
from runner.bridge.rngs import apply_keys, root_key
from runner.bridge.trust import foreign_code
from runner.bridge.wrap import Bridged
from runner.config import env_secrets
from runner.config.enums import InputKind
from runner.config.serialize import from_data
from runner.config.settings.execution import DistributedSettings
from runner.config.settings.layer import InputSettings
from runner.config.settings.run import Run
from runner.errors import ConfigError, StorageError, UserError
from runner.experiment import inputs, memory
from runner.experiment.draft import Draft, make_draft
from runner.experiment.identity import identity_of
from runner.records import find, store
from runner.records.disk import files, removal
from runner.records.paths import RunFolder
from runner.records.record import Leaf, Record, Status

KINDS = ("linen", "nnx")

Places = Mapping[str, Sharding]


class SavedRun:
    """A saved run; its record and config are read once, on first access.

    Args:
      folder: Its folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    @functools.cached_property
    def record(self) -> Record:
        """The run's record.

        Raises:
          StorageError: The record is missing or damaged.
        """
        return store.read_record(self.folder)

    @functools.cached_property
    def run(self) -> Run:
        """The run's config; values from environment variables are read from the environment again.

        Raises:
          ConfigError: An environment variable is not set.
        """
        return from_data(env_secrets.resolve(self.record.settings))

    @property
    def in_one_process(self) -> Run:
        """The run's config for one process, with as many CPU devices as all its processes had."""
        num_processes = self.record.mesh.num_processes if self.record.mesh else 1
        num_cpu_devices = self.run.process.num_cpu_devices * num_processes
        process = dataclasses.replace(self.run.process, num_cpu_devices=num_cpu_devices)
        return dataclasses.replace(self.run, distributed=DistributedSettings(), process=process)

    @property
    def input(self) -> InputSettings:
        """The run's input settings; an input file is the copy in the run's folder."""
        settings = self.run.input
        if settings.kind is not InputKind.file:
            return settings
        return dataclasses.replace(settings, path=str(files.inside(self.folder, self.folder.input.name)))

    @property
    def x(self) -> Any:
        """The input that the run was applied to."""
        return inputs.make_input(self.input, self.run.input_shape)

    def require_trust(self, *, trust: bool) -> None:
        """Refuses to import modules named by an untrusted record, unless allowed.

        Raises:
          UserError: The record names a module that is not ours, flax's or jax's.
        """
        foreign = [] if trust else foreign_code(self.run)
        if foreign:
            names = ", ".join(foreign)
            raise UserError(f"rebuilding this run imports {names}, which runs its code", "the same with --trust")

    def places(self) -> Places | None:
        """The sharding of each leaf by path, on the mesh of the run (see `mesh.fitted`); None without a mesh."""
        mesh = None if self.record.mesh is None else make_mesh(fitted(self.in_one_process))
        return None if mesh is None else _places(self.record, mesh)

    def variables(self, places: Places | None = None) -> Any:
        """Restores the variables of the run's checkpoint, each leaf verified by digest; `{}` for a run without any.

        Args:
          places: The sharding of each leaf by its path; None gives NumPy leaves.

        Raises:
          StorageError: There is no checkpoint, or it differs from what was saved; every differing leaf is named.
        """
        record, folder = self.record, self.folder
        if record.checkpoint is None and not record.variables:
            return {}
        if record.checkpoint is None:
            raise StorageError(f"{folder.path} has no checkpoint", "checkpoint=orbax")
        if record.checkpoint.removed is not None:
            raise StorageError(f"{folder.path}: {removal.sentence(record)}", removal.again(record))
        path = folder.path / record.checkpoint.path
        try:
            found = checkpoint.restore(path) if places is None else checkpoint.restore_onto(path, places.__getitem__)
        except checkpoint.CheckpointError as error:
            raise StorageError(f"{path} can't be restored: {error.__cause__ or error}") from error
        if wrong := _changed_leaves(record, found):
            raise StorageError(f"{path} is not what the run saved: {', '.join(sorted(wrong))}")
        return found

    def draft(self, run: Run | None = None) -> Draft:
        """Traces the program of the run, on its device or mesh as far as they exist here (see `mesh.fitted`).

        Args:
          run: A config to use instead of the saved one.

        Raises:
          NoRoomError: The run asks for more memory than there is.
          UserError: The layer can't be built here.
        """
        config = dataclasses.replace(run or self.run, variables=None, input=self.input)
        config_here = fitted(config)
        identity = identity_of(dataclasses.replace(config_here, mesh=config.mesh))
        draft = make_draft(config_here, identity)
        memory.require_room_again(self.folder, draft)
        return draft


def _changed_leaves(record: Record, variables: Any) -> list[str]:
    """How restored variables differ from the record, one phrase per leaf."""
    found = {leaf.name: leaf for leaf in trees.leaves(variables)}
    kept = {leaf.name: leaf for leaf in record.variables}
    wrong = [f"{name} is missing" for name in kept.keys() - found.keys()]
    wrong += [f"{name} was not saved by this run" for name in found.keys() - kept.keys()]
    both = kept.keys() & found.keys()
    return wrong + [f"{name} has other bits" for name in both if kept[name].digest != found[name].digest]


@dataclass(frozen=True, kw_only=True)
class Reloaded:
    """A saved run, ready to apply.

    Attributes:
      module: The `flax.linen.Module`, or with `as_="nnx"` the native `nnx.Module` with the variables loaded.
      variables: The Linen variable dict, `module.apply(variables, x, rngs=rngs)`.
      x: The input that the run was applied to.
      rngs: The keys that apply passed to every stream but `params`.
      mutable: Collections that apply may change.
      call: Keyword arguments of every call.
      settings: The run's config.
      record: The run's record.
    """

    module: Any
    variables: Any
    x: np.ndarray
    rngs: Mapping[str, jax.Array]
    mutable: tuple[str, ...]
    call: Mapping[str, Any]
    settings: Run
    record: Record

    def __repr__(self) -> str:
        said = ", ".join(f"{name}: {value}" for name, value in self._summary().items())
        return f"Reloaded({said}; .apply(), .module, .variables, .x, .rngs, .record)"

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{html.escape(value)}</td></tr>'
            for name, value in self._summary().items()
        )
        return f"<table>{rows}</table>"

    def _summary(self) -> dict[str, str]:
        leaves = jax.tree.leaves(self.variables)
        num_bytes = sum(leaf.nbytes for leaf in leaves)
        kind = "nnx" if isinstance(self.module, nnx.Module) else "linen"
        outputs = [f"{array.dtype}{array.shape}" for array in self.record.output]
        summary = {
            "run": f"{self.record.num}-{self.record.run_id[:8]}",
            "layer": self.record.layer + (f" in {self.record.host}" if self.record.host else ""),
            "module": f"{kind} {type(self.module).__name__}",
            "variables": f"{len(leaves)} arrays, {num_bytes} bytes",
            "x": f"{self.x.dtype}{list(self.x.shape)}",
            "output": ", ".join(outputs) or "none: the run failed",
        }
        if self.record.train:
            losses = self.record.train.losses
            summary["loss"] = f"{losses[0]:.6g} to {losses[-1]:.6g} in {len(losses)} steps"
        return summary

    def apply(self, x: Any = None) -> Any:
        """The output for `x`, by default the recorded input; compiled, as in the run. May mutate a native module."""
        x = self.x if x is None else x
        if isinstance(self.module, nnx.Module):
            return nnx.jit(lambda module, x: calls.call(module, x, self.call))(self.module, x)
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
    """Reloads the module, variables and settings of a saved run.

    Every leaf is verified against its digest in the record. The native module gets the rng streams that apply passed to
    the layer (`bridge.apply_keys`), so that its first call draws what apply drew.

    Args:
      run: The run's folder.
      as_: `linen` or `nnx`.
      device: Where to put the variables: `cpu`, `gpu:1`, …; None leaves them on the host, for JAX to place.
      dtype: Casts floating leaves to this dtype.
      sharding: How to shard the variables, each device reading only its own shards: a `jax.sharding.Sharding` for all
        leaves, a tree of them matching the variables, or a `Mesh`, on which each leaf is sharded as in the record
        (dimensions that can't be split, or have no axis on the mesh, are replicated).
      only: Collections or paths (`params`, `params/kernel`); other leaves are omitted, or stay as the native
        constructor made them.
      trust: Whether modules other than ours and flax's may be imported.

    Raises:
      UserError: No such run, a damaged run, a run that imports untrusted modules, or an invalid argument.
    """
    if as_ not in KINDS:
        raise ConfigError("as_", as_, "a run reloads as linen or nnx", "as_=nnx")
    saved = SavedRun(find.find_run(Path(run)))
    folder, record = saved.folder, saved.record
    if record.status is Status.failed and not record.variables:
        raise UserError(f"{folder.path}: the run failed before it had variables", f"bridge-runner show {folder.path}")
    config = saved.run
    saved.require_trust(trust=trust)
    variables = saved.variables(None if sharding is None else _places(record, sharding))
    draft = saved.draft()
    variables = trees.with_keys_of(_chosen(variables, only), draft.needs.variables)
    placed = _placed(variables, device if sharding is None else None, dtype)
    module: Any = draft.model.model
    if as_ == "nnx":
        if draft.model.construct is None:
            raise UserError(
                f"{folder.path} is a run of the host {record.host}, which has no native module", 'as_="linen"'
            )
        own = apply_keys(root_key(config.seed), draft.needs.streams)
        # A layer run on a mesh may contain axis names: flax would require a mesh to place what is replaced here.
        with nnx.use_eager_sharding(False) if record.mesh else contextlib.nullcontext():
            module = native.with_variables(draft.layer, placed, own, cast=dtype is not None)
    return Reloaded(
        module=module,
        variables=placed,
        x=saved.x,
        rngs=apply_keys(root_key(config.seed), draft.rngs),
        mutable=draft.mutable,
        call=draft.model.call,
        settings=config,
        record=record,
    )


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
      ConfigError: `sharding` has none for a leaf, or one that does not fit its shape.
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
    """How `leaf` was sharded in its run, as far as `mesh` can shard it that way."""
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
        if not jnp.issubdtype(wanted, jnp.floating):
            raise ConfigError("dtype", dtype, "floating-point leaves stay such; wanted a float dtype", "dtype=bfloat16")
        variables = jax.tree.map(
            lambda leaf: leaf.astype(wanted) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, variables
        )
    return variables if device is None else jax.device_put(variables, devices.find_device(device))
