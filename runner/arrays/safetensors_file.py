"""Reads and writes named arrays as a safetensors file. The only module that uses the package, which is optional."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from runner.errors import StorageError, UserError
from runner.records import files

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


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays and metadata of a safetensors file. The format holds numbers and text, never code.

    Raises:
      UserError: The package is not installed.
      StorageError: The file is damaged or not a safetensors file.
    """
    package = require_package()
    try:
        found = package.deserialize(path.read_bytes())
        with package.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        return {name: _array(entry) for name, entry in found}, metadata
    except (OSError, package.SafetensorError, KeyError, ValueError) as error:
        raise StorageError(f"{path} is no safetensors file, or a damaged one: {error}") from error


def _array(entry: Mapping[str, Any]) -> np.ndarray:
    name = DTYPES[entry["dtype"]]
    return np.frombuffer(entry["data"], np.dtype(getattr(ml_dtypes, name, name))).reshape(entry["shape"])
