"""Saves NumPy leaves by Orbax's handler alone, and leaves the flushing to whoever has more to flush."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

# In the name of a folder that Orbax has not finished.
TEMPORARY = ".orbax-checkpoint-tmp"

# What Orbax adds to a folder that it has finished: when and by which handler, and that it is whole.
STEP_METADATA, COMMITTED = "_CHECKPOINT_METADATA", "commit_success.txt"

_OWN = threading.local()


def save(variables: Mapping[Any, Any], path: Path) -> Path:
    """Saves NumPy leaves where no other process takes part; nothing of it is flushed to disk.

    What a `Checkpointer` does around its handler (a folder, two small files, a rename) it does in event loops and
    threads made for it: with small leaves, that is half of a save.

    Args:
      variables: Nested dicts with NumPy leaves.
      path: Where the checkpoint is to be.

    Returns:
      The folder that it is in, to be renamed to `path` once it is flushed.
    """
    import orbax.checkpoint as ocp

    began_ns = time.time_ns()
    temporary = path.with_name(path.name + TEMPORARY)
    if temporary.exists():  # of a process that was killed
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    handler = _handler()
    handler.save(temporary, args=ocp.args.PyTreeSave(variables))
    times = {"init_timestamp_nsecs": began_ns, "commit_timestamp_nsecs": time.time_ns()}
    step = {"item_handlers": handler.typestr(), **times}
    ocp.metadata.metadata_store(enable_write=True, blocking_write=True).write(temporary / STEP_METADATA, step)
    (temporary / COMMITTED).write_text(f"Checkpoint commit was successful to {path}")
    return temporary


def _handler() -> Any:
    import orbax.checkpoint as ocp

    if not hasattr(_OWN, "handler"):
        # There is no array of JAX: Orbax logs a warning where nothing would save one.
        others = jax.Array, ocp.type_handlers.ArrayHandler()
        _OWN.handler = ocp.PyTreeCheckpointHandler(
            use_ocdbt=False,
            use_compression=False,
            type_handler_registry=ocp.type_handlers.create_type_handler_registry((np.ndarray, _in_place()), others),
        )
    return _OWN.handler


def _in_place() -> Any:
    """Saves NumPy leaves directly from memory (by default, Orbax copies the whole tree first), without flushing."""
    import orbax.checkpoint as ocp
    import tensorstore

    # Else TensorStore flushes each file, its lock and its folder.
    context = tensorstore.Context({"file_io_concurrency": {"limit": 128}, "file_io_sync": False})

    class InPlace(ocp.type_handlers.NumpyHandler):  # type: ignore[misc]
        async def serialize(self, values: Sequence[Any], infos: Sequence[Any], args: Any = None) -> Any:
            for info in infos:
                info.ts_context = context
            return await super().serialize(values, infos, args)

    return InPlace(deepcopy_host_arrays=False)
