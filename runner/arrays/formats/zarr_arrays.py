"""Arrays that tensorstore writes, each in a folder of its own: zarr 2 and 3, gzip, blosc, zstd or plain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.arrays import declared_sizes, trees
from runner.arrays.formats.contents import Contents, DamagedError, StoredArray, dtype_named
from runner.records.disk import plain_files

FORMAT = "tensorstore's arrays"

# The file that describes an array, and the driver that reads it.
DRIVERS = {".zarray": "zarr", "zarr.json": "zarr3"}

# big_vision joins names in a tree by this sign, T5X and Orbax by dots.
BIG_VISION = "~"


def is_array(folder: Path) -> bool:
    """Whether an array is in the folder."""
    return any((folder / name).is_file() for name in DRIVERS)


def holds_arrays(folder: Path) -> bool:
    """Whether folders in the folder are arrays."""
    return any(is_array(one) for one in folder.iterdir() if one.is_dir())


def stored(folder: Path) -> StoredArray:
    """The array in the folder.

    Raises:
      DamagedError: Its description can't be read.
    """
    file = next(folder / name for name in DRIVERS if (folder / name).is_file())
    try:
        found = json.loads(plain_files.read_bytes(file))
        shape, dtype = tuple(found["shape"]), dtype_named(found["data_type" if "data_type" in found else "dtype"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder.name}/{file.name} does not describe an array") from error
    return StoredArray(shape=shape, dtype=dtype, key=(DRIVERS[file.name], str(folder.absolute())))


def read_arrays(arrays: Sequence[StoredArray]) -> list[np.ndarray]:
    """The arrays themselves, read at the same time.

    Raises:
      StorageError: What is no file is among those of an array.
      TooLargeError: A chunk of one does not fit into the memory that is free.
    """
    import tensorstore

    def spec(driver: str, folder: str) -> Any:
        return {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/"}}

    for one in arrays:
        plain_files.require_files(Path(one.key[1]))
        declared_sizes.require_folder(Path(one.key[1]), whole=False)
    opened = [tensorstore.open(spec(*one.key), open=True, read=True) for one in arrays]
    reading = [one.result().read() for one in opened]
    return [np.asarray(one.result()) for one in reading]


def read(folder: Path) -> Contents:
    """Opens a folder of arrays that has no list of them, as big_vision writes.

    Raises:
      DamagedError: An array's description can't be read.
    """
    found = sorted(one for one in folder.iterdir() if one.is_dir() and is_array(one))
    sign = BIG_VISION if any(BIG_VISION in one.name for one in found) else "."
    tree = trees.nest((tuple(one.name.split(sign)), stored(one)) for one in found)
    return Contents(format=FORMAT, place=folder, tree=tree, read=read_arrays)
