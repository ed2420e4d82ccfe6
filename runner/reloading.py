"""A saved run, ready to apply again: the layer from the record's settings, the variables from the checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from runner import bridge, checkpoint, devices, inputs, native, settings, storage, targets, trees
from runner import program as programs
from runner.errors import ConfigError, StorageError, UserError
from runner.program import Draft
from runner.records import Record
from runner.settings import InputKind, Run
from runner.storage import RunFolder

KINDS = ("linen", "nnx")


@dataclass(frozen=True, kw_only=True)
class Reloaded:
    """A saved run, ready to apply.

    Attributes:
      module: The `flax.linen.Module`, or with `as_="nnx"` the native `nnx.Module` with the variables in it.
      variables: The Linen variable dict, `module.apply(variables, x)`.
      settings: The run's config.
      record: What the run left.
    """

    module: Any
    variables: Any
    settings: Run
    record: Record


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
      sharding: A `jax.sharding.Sharding` for all leaves, or a tree of them like the variables.
      only: Collections or paths (`params`, `params/kernel`); other leaves are left out, or stay as the native
        constructor made them.
      trust: Whether modules that are neither ours nor flax's may be imported.

    Raises:
      UserError: No such run, a damaged one, one that imports what is not trusted, or an unknown choice.
    """
    if as_ not in KINDS:
        raise ConfigError("as_", as_, "a run reloads as linen or nnx", "as_=nnx")
    folder = storage.find_run(Path(run))
    record = storage.read_record(folder)
    config = settings.from_data(record.settings)
    require_trust(config, trust=trust)
    variables = read_variables(folder, record)
    draft = rebuild(folder, config)
    variables = trees.with_keys_of(variables, draft.needs.variables)
    placed = _placed(_chosen(variables, only), device, dtype, sharding)
    if as_ == "linen":
        return Reloaded(module=draft.model.model, variables=placed, settings=config, record=record)
    module = native.with_variables(
        draft.layer, placed, bridge.apply_keys(bridge.root_key(config.seed), draft.needs.streams)
    )
    return Reloaded(module=module, variables=placed, settings=config, record=record)


def require_trust(run: Run, *, trust: bool) -> None:
    """Refuses to import what a stranger's record names, unless that is allowed.

    Raises:
      UserError: It names a module that is neither ours nor flax's or jax's.
    """
    foreign = [] if trust else targets.foreign_paths(run)
    if foreign:
        names = ", ".join(foreign)
        raise UserError(f"rebuilding this run imports {names}, which runs its code", "the same with --trust")


def read_variables(folder: RunFolder, record: Record) -> Any:
    """The variables in the run's checkpoint, NumPy leaves, each compared with its digest; `{}` of a run without any.

    Raises:
      StorageError: There is no checkpoint, or it is not what was saved; every leaf that differs is named.
    """
    if record.checkpoint is None and not record.variables:
        return {}
    if record.checkpoint is None:
        raise StorageError(f"{folder.path} has no checkpoint", "checkpoint=orbax")
    path = storage.inside(folder, record.checkpoint.path)
    try:
        variables = checkpoint.restore(path)
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
    """The traced program of a saved run, on its device, or on the CPU where that is not there.

    Raises:
      UserError: The layer can't be built here.
    """
    config = dataclasses.replace(run, variables=None, input=saved_input(folder, run))
    return programs.draft(config, programs.identify(dataclasses.replace(config, device=here(run.device))))


def saved_input(folder: RunFolder, run: Run) -> Any:
    """The run's input settings; an input file is the copy in the run's folder."""
    if run.input.kind is not InputKind.file:
        return run.input
    return dataclasses.replace(run.input, path=str(folder.input))


def here(device: str) -> str:
    """`device` if it is there, else the CPU."""
    try:
        devices.find_device(device)
    except UserError:
        return "cpu"
    return device


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


def _placed(variables: Any, device: str | None, dtype: str | None, sharding: Any) -> Any:
    if dtype is not None:
        try:
            wanted = jnp.dtype(dtype)
        except TypeError:
            raise ConfigError("dtype", dtype, "no such dtype", "dtype=bfloat16") from None
        variables = jax.tree.map(
            lambda leaf: leaf.astype(wanted) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, variables
        )
    if sharding is not None:
        return jax.device_put(variables, sharding)
    return variables if device is None else jax.device_put(variables, devices.find_device(device))
