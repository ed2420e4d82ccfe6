"""Checkpoints with the bytes that EasyLM and T5X write, from a few lines of our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import tensorstore
from flax import serialization, traverse_util


def write_easylm(path: Path, tree: Mapping[str, Any]) -> None:
    """A stream of pairs: the path of a leaf, and its bytes."""
    packer = msgpack.Packer()
    with path.open("wb") as file:
        for key, leaf in traverse_util.flatten_dict(serialization.to_state_dict(tree)).items():
            file.write(packer.pack((key, serialization.to_bytes(leaf))))


def write_t5x(
    folder: Path, target: Mapping[str, Any], *, driver: str = "zarr", compressor: Any = None, **more: Any
) -> None:
    """A file `checkpoint` with specs for the arrays, each of which is in a folder of its own; scalars are in the file.

    Args:
      folder: A new folder.
      target: The params.
      driver: Of tensorstore: zarr or zarr3.
      compressor: As zarr's metadata has it; for zarr3 a list of codecs.
      more: What is next to the params: the optimiser's state.
    """
    folder.mkdir(parents=True)

    def written(node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, Mapping):
            return {key: written(child, (*path, str(key))) for key, child in node.items()}
        if np.ndim(node) == 0:
            return node
        name = ".".join(path)
        compression = {"codecs" if driver == "zarr3" else "compressor": compressor} if compressor else {}
        metadata = {"shape": list(node.shape), **compression}
        spec = {"driver": driver, "dtype": node.dtype.name, "metadata": metadata}
        place = {"driver": "file", "path": f"{folder.absolute()}/{name}/"}
        tensorstore.open({**spec, "kvstore": place, "create": True}).result().write(node).result()
        return {**spec, "kvstore": {"driver": "file", "path": name}}

    tree = written({"target": target, **more}, ())
    (folder / "checkpoint").write_bytes(serialization.to_bytes({"version": 3, "optimizer": tree}))


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, bytes]]:
    """Paths, dtypes and bytes, in order: equal if two trees are the same bit for bit."""
    if isinstance(tree, Mapping):
        for key in sorted(tree, key=str):
            yield from leaves(tree[key], (*path, str(key)))
    else:
        array = np.asarray(tree)
        yield "/".join(path), f"{array.dtype}{array.shape}", array.tobytes()
