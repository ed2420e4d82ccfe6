"""Saves and restores Linen variables as plain Orbax checkpoints; only this module and `host_saves` use Orbax.

Written with the stable API, NumPy leaves and no OCDBT: such a folder restores with every Orbax reader, on every device,
and is the fastest (a jax leaf records its device and does not restore where that is absent). Sharded arrays are saved
sharded, each shard by the device and process that hold it; to restore onto other devices, give Orbax a target or use
this module.
"""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from runner.arrays import declared_sizes, host_saves, trees
from runner.records.disk import flush, plain_files

# Characters that no name in a tree may contain.
UNKEEPABLE = ("/", "\\")

# Element types of JAX that TensorStore, which Orbax writes with, has no name for.
UNSTORED = frozenset({"uint2", "uint4", "float6_e2m3fn", "float6_e3m2fn", "float8_e4m3"})


class CheckpointError(Exception):
    """Variables whose paths Orbax would confuse, or a folder that it can't read."""


def save(variables: Mapping[Any, Any], path: Path) -> None:
    """Saves a variable dict (boxes removed) into the new folder `path`; flushed to disk on return.

    Args:
      variables: Collections of nested dicts with NumPy leaves, or with jax arrays on a mesh; or an `nnx.State`, which
        may hold rng keys.
      path: A folder that does not exist yet.

    Raises:
      CheckpointError: Orbax could not restore such a tree, or raised an error; or something is at `path` already.
    """
    path = path.absolute()
    saved = save_unflushed(variables, path)
    try:
        flush.flush_tree(saved)
        saved.rename(path)
        flush.flush(path.parent)
    except OSError as error:
        remove_temporary(path)
        raise CheckpointError(f"saving {path.name}: {type(error).__name__}: {error}") from error


def save_unflushed(variables: Mapping[Any, Any], path: Path) -> Path:
    """Like `save`, but flushes nothing: for a caller with more to flush, as many files take hardly longer than one.

    Returns:
      The folder that it is in, to be renamed to `path` once it is flushed; `path` itself if other processes take part.

    Raises:
      CheckpointError: As for `save`.
    """
    leaves = require_keepable(variables)
    path = path.absolute()
    if path.exists():
        raise CheckpointError(f"saving {path.name}: {path} is there already")
    try:
        if all(isinstance(leaf, np.ndarray) for _, leaf in leaves) and jax.process_count() == 1:
            return host_saves.save(variables, path)
        _checkpointer().save(path, variables)
        return path
    except Exception as error:  # Orbax raises half a dozen unrelated exception types
        if jax.process_index() == 0:  # one folder for all processes
            remove_temporary(path)
        raise CheckpointError(f"saving {path.name}: {type(error).__name__}: {error}") from error


def restore(path: Path) -> Any:
    """Restores the variable dict from the checkpoint at `path`, with NumPy leaves; integer keys come back as strings.

    Raises:
      CheckpointError: Nothing there is readable by Orbax.
    """
    folder = path.absolute()
    if host_saves.TEMPORARY in folder.name:
        raise CheckpointError(f"restoring {path}: the save that made it never ended")
    # Orbax's CheckpointManager stores the tree of a step one folder deeper.
    folder = folder / "default" if (folder / "default" / "_METADATA").exists() else folder
    try:
        _require_readable(folder)
        variables = _restore(folder)
    except Exception as error:  # a damaged checkpoint raises ValueError, KeyError, JSONDecodeError and others
        raise CheckpointError(f"restoring {path}: {type(error).__name__}: {error}") from error
    if not variables:
        raise CheckpointError(f"restoring {path}: the folder holds no checkpoint")  # Orbax reads {} in it
    return variables


def tree_metadata(path: Path) -> Any:
    """The tree of the checkpoint at `path`, with Orbax's metadata (shape, dtype) in place of the arrays.

    Raises:
      CheckpointError: Orbax can't read it.
    """
    try:
        _require_readable(path, whole=False)
        return _checkpointer().metadata(path.absolute()).item_metadata.tree
    except Exception as error:
        raise CheckpointError(f"reading {path}: {type(error).__name__}: {error}") from error


def restore_some(path: Path, metadata: Any, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of the checkpoint at `path` that have these names, by name; the others are not read.

    Args:
      path: The checkpoint's folder.
      metadata: Its `tree_metadata`.
      names: Paths as text.

    Raises:
      Exception: Of half a dozen types, if the checkpoint is damaged.
    """
    import orbax.checkpoint as ocp

    def pick(chosen: Any, others: Any) -> Any:
        return jax.tree.map_with_path(lambda key, _: chosen if trees.spell_keys(key) in names else others, metadata)

    as_numpy = pick(ocp.RestoreArgs(restore_type=np.ndarray), ocp.RestoreArgs())
    wanted = jax.tree.map_with_path(
        lambda key, leaf: leaf if trees.spell_keys(key) in names else ocp.PLACEHOLDER, metadata
    )
    found = _checkpointer().restore(path.absolute(), args=ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy))
    return {name: np.asarray(leaf) for key, leaf in trees.flatten(found) if (name := trees.spell(key)) in names}


def restore_onto(path: Path, sharding: Callable[[str], Sharding]) -> Any:
    """Like `restore`, but onto devices: each reads only its shards, so that no array is whole on the host.

    Args:
      path: The checkpoint's folder.
      sharding: Returns a leaf's sharding, given its path as one string.

    Raises:
      CheckpointError: Nothing there is readable by Orbax.
    """
    import orbax.checkpoint as ocp

    def placed(key: trees.Path) -> Any:
        return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding(trees.spell(key)))

    folder = path.absolute()
    try:
        _require_readable(folder)
        metadata = _checkpointer().metadata(folder).item_metadata.tree
        wanted = trees.nest((key, placed(key)) for key, _ in trees.flatten(metadata))
        return _checkpointer().restore(folder, restore_args=wanted)
    except Exception as error:
        raise CheckpointError(f"restoring {path}: {type(error).__name__}: {error}") from error


def _restore(path: Path) -> Any:
    if not (path / "_sharding").exists():
        return _checkpointer().restore(path)
    # A jax leaf records devices that may be absent here: request NumPy arrays, which requires reading the metadata too.
    import orbax.checkpoint as ocp

    metadata = _checkpointer().metadata(path).item_metadata.tree
    wanted = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
    return _checkpointer().restore(path, restore_args=wanted)


def restore_like(path: Path, target: Any) -> Any:
    """Restores the variable dict at `path` with the keys of `target`, so that integer and tuple keys keep their type.

    Args:
      path: The checkpoint's folder.
      target: Arrays or `jax.ShapeDtypeStruct` in the saved tree's structure, without boxes.

    Raises:
      CheckpointError: The tree, a shape or a dtype differs from `target`, or nothing there is readable by Orbax.
    """
    import orbax.checkpoint as ocp

    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    try:
        _require_readable(path)
        variables = _checkpointer().restore(path.absolute(), item=target, restore_args=as_numpy)
    except Exception as error:
        raise CheckpointError(f"restoring {path}: {type(error).__name__}: {error}") from error
    for (key, got), (_, wanted) in zip(trees.flatten(variables), trees.flatten(target), strict=True):
        # Orbax does not check shapes and dtypes against the target.
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            name = "/".join(map(str, key))
            raise CheckpointError(f"restoring {path}: {name} is {_kind(got)}, and the target is {_kind(wanted)}")
    return variables


def save_step(tree: Mapping[str, Any], folder: Path, num: int, *, keep: int, metadata: Mapping[str, Any]) -> None:
    """Saves step `num` into `folder` with Orbax's CheckpointManager, which removes old steps; flushed on return.

    Args:
      tree: Nested dicts with NumPy leaves.
      folder: Folder of the steps; created if missing.
      num: Number of the step, greater than that of every existing step.
      keep: Number of steps to keep.
      metadata: JSON data stored with the tree, for `step_metadata`.

    Raises:
      CheckpointError: Orbax could not restore such a tree, or raised an error.
    """
    require_keepable(tree)
    try:
        import orbax.checkpoint as ocp

        with _manager(folder, preservation_policy=ocp.checkpoint_managers.LatestN(keep)) as manager:
            manager.save(num, args=ocp.args.PyTreeSave(tree), custom_metadata=dict(metadata))
        # Orbax survives a kill but not a power failure: it does not flush its metadata or its rename.
        flush.flush_tree(folder.absolute() / str(num))
        flush.flush(folder.absolute())
        flush.flush(folder.absolute().parent)  # the manager may have made the folder
    except Exception as error:
        raise CheckpointError(f"saving step {num}: {type(error).__name__}: {error}") from error


def step_metadata(folder: Path, num: int) -> dict[str, Any]:
    """The metadata that `save_step` stored with a step; empty if it is damaged.

    Raises:
      CheckpointError: Orbax can't read it.
    """
    try:
        _require_readable(folder / str(num), whole=False)
        with _manager(folder, read_only=True) as manager:
            return dict(manager.metadata(num).custom_metadata or {})
    except Exception as error:
        raise CheckpointError(f"reading step {num}: {type(error).__name__}: {error}") from error


def _manager(folder: Path, **options: Any) -> Any:
    import orbax.checkpoint as ocp

    return ocp.CheckpointManager(
        folder.absolute(),
        item_handlers=ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False),
        options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False, **options),
    )


def _require_readable(folder: Path, *, whole: bool = True) -> None:
    """Checks what else would make Orbax wait for ever, or end the process; for `whole` see `require_folder`."""
    plain_files.require_files(folder)
    declared_sizes.require_folder(folder, whole=whole)


def is_disk_full(error: CheckpointError) -> bool:
    """Whether a save failed because the disk is full: then the run is not to blame."""
    cause = error.__cause__
    return (isinstance(cause, OSError) and cause.errno == errno.ENOSPC) or "RESOURCE_EXHAUSTED" in str(error)


def warm() -> None:
    """Imports Orbax ahead of time, since that takes most of a second."""
    _checkpointer()


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    # One per thread: each has its own event loop.
    if not hasattr(_OWN, "checkpointer"):
        _OWN.checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False))
    return _OWN.checkpointer


_OWN = threading.local()


def require_keepable(variables: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """The dotted paths and leaves of `variables`, arrays or `jax.ShapeDtypeStruct` without boxes.

    Raises:
      CheckpointError: Orbax would confuse paths, or lose a leaf.
    """
    seen: dict[str, trees.Path] = {}
    leaves = trees.flatten(variables)
    if not leaves:
        raise CheckpointError("the layer has no variables: there is nothing to save")
    for path, leaf in leaves:
        name = ".".join(str(part) for part in path)
        if any(sign in name for sign in UNKEEPABLE):
            # Orbax silently writes a slash as a folder, where another leaf may be, and drops a leaf with a backslash.
            raise CheckpointError(f"the path {path} has a slash or a backslash in a name: Orbax would not give it back")
        if name in seen:
            # Orbax joins keys with dots and would restore both as the same array.
            raise CheckpointError(f"the paths {seen[name]} and {path} are one to Orbax ({name})")
        seen[name] = path
        if np.size(leaf) == 0:
            raise CheckpointError(
                f"{'/'.join(map(str, path))} has shape {list(np.shape(leaf))}: Orbax saves no empty array"
            )
        dtype = str(getattr(leaf, "dtype", None))
        if dtype in UNSTORED:
            raise CheckpointError(f"{'/'.join(map(str, path))} is {dtype}, which Orbax does not store")
    return [(".".join(str(part) for part in path), leaf) for path, leaf in leaves]


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def remove_temporary(path: Path) -> None:
    """Removes what a save to `path` left that did not end."""
    for rest in path.parent.glob(f"{path.name}{host_saves.TEMPORARY}*"):
        shutil.rmtree(rest, ignore_errors=True)
