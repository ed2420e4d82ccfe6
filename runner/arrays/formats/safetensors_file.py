"""Reads and writes named arrays as a safetensors file. Only writing takes the package, which is optional."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runner.arrays import trees
from runner.arrays.formats.contents import Contents, DamagedError, StoredArray, dtype_named, named
from runner.arrays.formats.msgpack_bytes import Buffer, Span
from runner.errors import StorageError, UserError
from runner.records.disk import files, plain_files

# The format's names for the dtypes it supports; NumPy's names are those that safetensors' writer takes.
DTYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "U8": "uint8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


FORMAT = "safetensors"

# Bytes of the header's length, and the most that a header has (the format's own limit).
HEAD = 8
MAX_HEADER = 100_000_000

# Integers of fewer bits than the format has; the metadata of a file can say which they are.
WIDER = {"int2": "int8", "int4": "int8", "uint2": "uint8", "uint4": "uint8"}


def require_package() -> Any:
    """Imports the safetensors package.

    Raises:
      UserError: It is not installed.
    """
    try:
        import safetensors
    except ImportError:
        raise UserError(
            "the package safetensors is not installed", "pip install 'bridge-runner[safetensors]'"
        ) from None
    return safetensors


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes the new file `path` atomically; flushed to disk on return.

    Args:
      path: A file that does not exist yet, in an existing folder.
      arrays: Arrays by name; integers of 2 and 4 bits are written as 8 bits.
      metadata: Text values by name.

    Raises:
      UserError: The package is not installed, or the format does not support a dtype.
      StorageError: The file can't be written.
    """
    package = require_package()
    arrays = {name: array.astype(WIDER.get(array.dtype.name, array.dtype)) for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES.values():
            raise UserError(f"{name} is {array.dtype.name}, which safetensors has no name for", "--to nnx")
    # The format is little-endian. The writer takes addresses, so these arrays must outlive it; the shapes are the
    # arrays' own, since ascontiguousarray gives a scalar an axis.
    flat = {
        name: np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        for name, array in arrays.items()
    }
    specs = {
        name: package.TensorSpec(
            dtype=array.dtype.name, shape=arrays[name].shape, data_ptr=array.ctypes.data, data_len=array.nbytes
        )
        for name, array in flat.items()
    }
    try:
        files.write_atomic(path, package.serialize(specs, dict(metadata)))
    except (OSError, package.SafetensorError) as error:
        raise StorageError(f"{path} can't be written: {error}") from error


def is_safetensors(start: bytes) -> bool:
    """Whether the first bytes are the length of a JSON text, and its beginning."""
    return len(start) > HEAD and start[HEAD : HEAD + 1] == b"{" and int.from_bytes(start[:HEAD], "little") < MAX_HEADER


def read(path: Path) -> Contents:
    """Opens the file; the package is not needed. The format holds numbers and text, never code.

    Raises:
      DamagedError: It is cut off, or no safetensors file.
    """
    buffer = Buffer(path)
    size = int.from_bytes(buffer.starts(HEAD), "little")
    if buffer.size < HEAD + size:
        raise DamagedError(f"it is cut off: its header has {size} bytes")
    try:
        header = json.loads(bytes(buffer.data[HEAD : HEAD + size]))
        texts = header.pop("__metadata__", {})
        leaves = {name: _stored(buffer, HEAD + size, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError("its header is no description of tensors") from error
    return Contents(format=FORMAT, place=path, tree=named(leaves.items()), texts=texts)


def read_shards(index: Path) -> Contents:
    """Opens the files that `…safetensors.index.json` names, as one.

    Raises:
      DamagedError: One is missing, cut off, or no safetensors file.
    """
    try:
        files = sorted(set(json.loads(plain_files.read_bytes(index))["weight_map"].values()))
        parts = [read(index.parent / Path(name).name) for name in files]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{index.name}: {error}") from error
    leaves = {".".join(map(str, key)): leaf for part in parts for key, leaf in trees.flatten(part.tree)}
    return Contents(format=FORMAT, place=index.parent, tree=named(leaves.items()))


def _stored(buffer: Buffer, start: int, entry: Mapping[str, Any]) -> StoredArray:
    if entry["dtype"] not in DTYPES:
        raise DamagedError(f"the element type {entry['dtype']} is not known")
    dtype = dtype_named(DTYPES[entry["dtype"]])
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    span = Span(start + begin, end - begin)
    if span.size != math.prod(shape) * dtype.itemsize:
        raise DamagedError(f"an array of {dtype.name}{list(shape)} has {span.size} bytes")
    if span.start + span.size > buffer.size:
        raise DamagedError(f"it is cut off: {span.start + span.size - buffer.size} bytes are missing at its end")
    return StoredArray(shape=shape, dtype=dtype, read=lambda: buffer.array(span, shape, dtype))
