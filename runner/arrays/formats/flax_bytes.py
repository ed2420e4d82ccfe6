"""What `flax.serialization.to_bytes` writes: one msgpack map, with arrays as a type of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.arrays.formats.contents import Contents, DamagedError
from runner.arrays.formats.msgpack_bytes import Buffer, Reader, as_tree
from runner.records.disk import plain_files

FORMAT = "flax msgpack"


def is_map(start: bytes) -> bool:
    """Whether the first bytes are those of a msgpack map."""
    return bool(start) and (0x80 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF))


def read(path: Path) -> Contents:
    """Opens the file.

    Raises:
      DamagedError: It is cut off, or no msgpack.
    """
    return Contents(format=FORMAT, place=path, tree=as_tree(value(path)), original=lambda: _original(path))


def value(path: Path) -> Any:
    """The map in the file, its arrays not read.

    Raises:
      DamagedError: It is cut off, or no msgpack.
    """
    reader = Reader(Buffer(path))
    try:
        found = reader.value()
    except (RecursionError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedError(f"{type(error).__name__} at byte {reader.at}") from error
    if reader:
        raise DamagedError(f"{reader.end - reader.at} bytes follow its end")
    return found


def _original(path: Path) -> Any:
    from flax import serialization

    return serialization.msgpack_restore(plain_files.read_bytes(path))
