"""What `np.savez` writes, as big_vision does: arrays whose names are paths, joined by slashes."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from runner.arrays.formats.contents import Contents, DamagedError, StoredArray, named
from runner.arrays.formats.refused import Refusal, pickled

FORMAT = "npz"
SUFFIX = ".npy"


def is_zip(start: bytes) -> bool:
    """Whether a file that begins so is a zip archive, as npz files are."""
    return start.startswith(b"PK")


def read(path: Path) -> Contents:
    """Opens the file.

    Raises:
      DamagedError: It is cut off, or no npz.
      Refusal: It holds pickled objects, or is another kind of zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                raise pickled("a PyTorch checkpoint, which is a pickle")
            if not names or not all(name.endswith(SUFFIX) for name in names):
                raise Refusal("a zip file, and no npz")
            heads = {name.removesuffix(SUFFIX): _head(archive, name) for name in names}
    except zipfile.BadZipFile as error:
        raise DamagedError("it is cut off, or no zip") from error
    for name, (_, dtype) in heads.items():
        if dtype.hasobject:
            raise pickled(f"npz, and {name} in it is a pickled object")
    arrays = np.load(path, allow_pickle=False)
    return Contents(
        format=FORMAT,
        place=path,
        tree=named((name, _stored(arrays, name, *head)) for name, head in heads.items()),
    )


def _stored(arrays: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> StoredArray:
    known = _known(dtype)
    if known is None:
        raise DamagedError(f"{name} has the element type {dtype.str}, which no array of JAX has")
    return StoredArray(shape=shape, dtype=known, read=lambda: arrays[name].view(known).reshape(shape))


def _known(dtype: np.dtype) -> np.dtype | None:
    """The element type itself: NumPy writes bfloat16 as two bytes without a name."""
    if dtype.kind != "V":
        return dtype
    return np.dtype(ml_dtypes.bfloat16) if dtype.itemsize == 2 and dtype.names is None else None


def _head(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    try:
        with archive.open(name) as file:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(file)
            there = archive.getinfo(name).file_size - file.tell()
    except ValueError as error:
        raise DamagedError(f"{name} is no array") from error
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != there and not dtype.hasobject:
        raise DamagedError(f"{name} of shape {list(shape)} would take {wanted:,} bytes, and {there:,} are there")
    return shape, dtype
