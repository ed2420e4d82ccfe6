"""Linen variables to a plain Orbax checkpoint and back. The only file that knows Orbax.

Written with the stable API, NumPy leaves and no OCDBT: such a folder restores with every Orbax reader, on every device,
and takes the least time (a jax leaf remembers its device and does not restore where that is absent). What lies on a
mesh is written as it lies, each part by the device and the process that hold it; other devices than those give Orbax a
target, or take it from here.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from runner.arrays import shards, trees
from runner.arrays.fast_checkpoint import TEMPORARY, CloneWriter

# What a saved train state has beside params, and what collections are called.
STATE_KEYS = frozenset({"opt_state", "step", "tx"})
COLLECTIONS = frozenset({"batch_stats", "cache", "LoRAParam", "intermediates"})

# Signs that no name in a tree may have.
UNKEEPABLE = ("/", "\\")


class CheckpointError(Exception):
    """Variables that Orbax can't keep apart, or a folder that it can't read."""


def save(variables: Mapping[Any, Any], path: Path, writer: CloneWriter | None = None) -> None:
    """Saves a variable dict (boxes removed) into the new folder `path`; on the disk on return.

    Args:
      variables: Collections of nested dicts with NumPy leaves, or with jax arrays on a mesh; or without `writer` an
        `nnx.State`, which may hold rng keys.
      path: A folder that is not there yet.
      writer: Writes by template where it can, which is not on a mesh; None writes with Orbax.

    Raises:
      CheckpointError: A tree that Orbax would not give back, or an error of its own.
    """
    leaves = _require_keepable(variables)
    path = path.absolute()

    def by_orbax() -> None:
        numpy_only = all(isinstance(leaf, np.ndarray) for _, leaf in leaves)
        (_numpy_checkpointer() if numpy_only else _checkpointer()).save(path, variables)
        _sync(path)

    try:
        if writer is None or any(shards.is_sharded(leaf) for _, leaf in leaves):
            by_orbax()
        else:
            writer.save([(name, np.asarray(leaf)) for name, leaf in leaves], path, by_orbax)
    except Exception as error:  # Orbax raises half a dozen unrelated types
        if jax.process_index() == 0:  # one folder for all processes
            _remove_temporary(path)
        raise CheckpointError(f"saving {path.name}: {type(error).__name__}: {error}") from error


def restore(path: Path) -> Any:
    """The variable dict in the checkpoint at `path`, with NumPy leaves; integer keys come back as strings.

    Raises:
      CheckpointError: Nothing that Orbax can read is there.
    """
    folder = path.absolute()
    if TEMPORARY in folder.name:
        raise CheckpointError(f"restoring {path}: the save that made it never ended")
    # Orbax's manager puts the tree of a step one folder deeper.
    folder = folder / "default" if (folder / "default" / "_METADATA").exists() else folder
    try:
        variables = _restore(folder)
    except Exception as error:  # a damaged checkpoint raises ValueError, KeyError, JSONDecodeError and others
        raise CheckpointError(f"restoring {path}: {type(error).__name__}: {error}") from error
    if not variables:
        raise CheckpointError(f"restoring {path}: the folder holds no checkpoint")  # Orbax reads {} in it
    return variables


def restore_onto(path: Path, sharding: Callable[[str], Sharding]) -> Any:
    """As `restore`, on devices: each reads what it is to hold, so that no array is whole on the host.

    Args:
      path: The checkpoint's folder.
      sharding: Where a leaf goes, by its path as one string.

    Raises:
      CheckpointError: Nothing that Orbax can read is there.
    """
    import orbax.checkpoint as ocp

    def placed(key: trees.Path) -> Any:
        return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding(trees.spell(key)))

    folder = path.absolute()
    try:
        metadata = _checkpointer().metadata(folder).item_metadata.tree
        wanted = trees.nest((key, placed(key)) for key, _ in trees.flatten(metadata))
        return _checkpointer().restore(folder, restore_args=wanted)
    except Exception as error:
        raise CheckpointError(f"restoring {path}: {type(error).__name__}: {error}") from error


def as_variables(tree: Any) -> Any:
    """The variable dict in what somebody saved: itself, bare params, or a train state with params in it.

    Metadata boxes, which come back as `{"value": array}`, are unwrapped.
    """
    tree = _unboxed(tree)
    if not isinstance(tree, dict):
        return tree
    if "params" not in tree:
        known = all(isinstance(value, dict) for value in tree.values()) and tree.keys() & COLLECTIONS
        return tree if known else {"params": tree}
    inner = tree["params"]
    if isinstance(inner, dict) and set(inner) == {"params"}:
        return inner  # TrainState(params=variables)
    return {key: value for key, value in tree.items() if isinstance(value, dict) and key not in STATE_KEYS}


def _unboxed(tree: Any) -> Any:
    if isinstance(tree, dict):
        return _unboxed(tree["value"]) if set(tree) == {"value"} else {key: _unboxed(tree[key]) for key in tree}
    return tree


def _restore(path: Path) -> Any:
    if not (path / "_sharding").exists():
        return _checkpointer().restore(path)
    # A jax leaf remembers devices that may not be here: ask for NumPy arrays, which takes another look at the tree.
    import orbax.checkpoint as ocp

    metadata = _checkpointer().metadata(path).item_metadata.tree
    wanted = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
    return _checkpointer().restore(path, restore_args=wanted)


def restore_like(path: Path, target: Any) -> Any:
    """The variable dict in the checkpoint at `path` with the keys of `target`: integers and tuples stay what they were.

    Args:
      path: The checkpoint's folder.
      target: Arrays or `jax.ShapeDtypeStruct` in the tree that was saved, without boxes.

    Raises:
      CheckpointError: Another tree, shape or dtype is there than in `target`, or nothing that Orbax can read.
    """
    import orbax.checkpoint as ocp

    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    try:
        variables = _checkpointer().restore(path.absolute(), item=target, restore_args=as_numpy)
    except Exception as error:
        raise CheckpointError(f"restoring {path}: {type(error).__name__}: {error}") from error
    for (key, got), (_, wanted) in zip(trees.flatten(variables), trees.flatten(target), strict=True):
        # Orbax takes any shape and dtype for the one that it was told.
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            name = "/".join(map(str, key))
            raise CheckpointError(f"restoring {path}: {name} is {_kind(got)}, and the target is {_kind(wanted)}")
    return variables


def save_step(tree: Mapping[str, Any], folder: Path, num: int, *, keep: int, metadata: Mapping[str, Any]) -> None:
    """Saves step `num` into `folder` by Orbax's own manager, which removes older ones; on the disk on return.

    Args:
      tree: Nested dicts with NumPy leaves.
      folder: Of the steps; made if it is not there.
      num: Above that of every step that is there.
      keep: So many steps stay.
      metadata: JSON data kept beside the tree, for `step_metadata`.

    Raises:
      CheckpointError: A tree that Orbax would not give back, or an error of its own.
    """
    _require_keepable(tree)
    try:
        import orbax.checkpoint as ocp

        with _manager(folder, preservation_policy=ocp.checkpoint_managers.LatestN(keep)) as manager:
            manager.save(num, args=ocp.args.PyTreeSave(tree), custom_metadata=dict(metadata))
        _sync(folder.absolute() / str(num))
    except Exception as error:
        raise CheckpointError(f"saving step {num}: {type(error).__name__}: {error}") from error


def step_metadata(folder: Path, num: int) -> dict[str, Any]:
    """What `save_step` kept beside the tree of a step; empty where it is damaged.

    Raises:
      CheckpointError: Orbax can't read it.
    """
    try:
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


def is_disk_full(error: CheckpointError) -> bool:
    """Whether a save failed for want of room: then it is not the run that is at fault."""
    cause = error.__cause__
    return (isinstance(cause, OSError) and cause.errno == errno.ENOSPC) or "RESOURCE_EXHAUSTED" in str(error)


def warm() -> None:
    """Imports Orbax, which takes most of a second, where that disturbs nobody."""
    _checkpointer()


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    # One for every thread: each has an event loop of its own.
    if not hasattr(_OWN, "checkpointer"):
        _OWN.checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False))
    return _OWN.checkpointer


def _numpy_checkpointer() -> Any:
    """Saves NumPy leaves as they lie in memory, where Orbax would copy the whole tree first."""
    import orbax.checkpoint as ocp

    if not hasattr(_OWN, "numpy_checkpointer"):
        in_place = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
        handler = ocp.PyTreeCheckpointHandler(
            use_ocdbt=False,
            use_compression=False,
            type_handler_registry=ocp.type_handlers.create_type_handler_registry((np.ndarray, in_place)),
        )
        _OWN.numpy_checkpointer = ocp.Checkpointer(handler)
    return _OWN.numpy_checkpointer


_OWN = threading.local()


def _require_keepable(variables: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """The dotted paths and leaves of `variables`, if Orbax keeps them apart."""
    seen: dict[str, trees.Path] = {}
    leaves = trees.flatten(variables)
    if not leaves:
        raise CheckpointError("the layer has no variables: there is nothing to save")
    for path, leaf in leaves:
        name = ".".join(str(part) for part in path)
        if any(sign in name for sign in UNKEEPABLE):
            # Orbax writes them without a word: a slash as a folder, where another leaf may be, a backslash not at all.
            raise CheckpointError(f"the path {path} has a slash or a backslash in a name: Orbax would not give it back")
        if name in seen:
            # Orbax joins keys by dots and would give both back as the same array.
            raise CheckpointError(f"the paths {seen[name]} and {path} are one to Orbax ({name})")
        seen[name] = path
        if np.size(leaf) == 0:
            raise CheckpointError(
                f"{'/'.join(map(str, path))} has shape {list(np.shape(leaf))}: Orbax saves no empty array"
            )
    return [(".".join(str(part) for part in path), leaf) for path, leaf in leaves]


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _remove_temporary(path: Path) -> None:
    import shutil

    for rest in path.parent.glob(f"{path.name}{TEMPORARY}*"):
        shutil.rmtree(rest, ignore_errors=True)


def _sync(path: Path) -> None:
    # Orbax survives a kill but not a power cut: its metadata and its rename are not flushed.
    for folder, _, files in os.walk(path):
        for name in [folder, *(os.path.join(folder, file) for file in files)]:
            descriptor = os.open(name, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    descriptor = os.open(path.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
