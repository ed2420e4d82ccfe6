"""Finds the arrays in msgpack bytes without copying them (https://github.com/msgpack/msgpack/blob/master/spec.md).

The msgpack package makes a copy of every array, and another of its bytes. Here an array is a place in the file, which
is read when it is asked for.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runner.arrays.formats.contents import DamagedError, Placeholder, StoredArray, dtype_named
from runner.records.disk import plain_files

# Flax's types of its own: https://github.com/google/flax/blob/main/flax/serialization.py
ARRAY, COMPLEX, SCALAR = 1, 2, 3
CHUNKED = "__msgpack_chunked_array__"

# Texts that stand for an array: Orbax's, and Flax's of an array that several processes share.
PLACEHOLDERS = ("PLACEHOLDER://", "//GDAPlaceholder:", "//MultiprocessArrayPlaceholder:")

# Big-endian numbers by their first byte.
NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
SIZES = (">B", ">H", ">I")


class Span(NamedTuple):
    """Bytes in the file."""

    start: int
    size: int


class Buffer:
    """The bytes of a file, mapped into memory."""

    def __init__(self, path: Path) -> None:
        with plain_files.opened(path) as file:
            size = file.seek(0, 2)
            self.data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self.size = size

    def starts(self, count: int = 2) -> bytes:
        """The first bytes."""
        return bytes(self.data[:count])

    def array(self, span: Span, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A copy of the array at `span`."""
        count = span.size // dtype.itemsize
        return np.frombuffer(self.data, dtype, count, span.start).reshape(shape).copy()


class Reader:
    """Reads values one after the other, up to `end`."""

    def __init__(self, buffer: Buffer, at: int = 0, end: int | None = None) -> None:
        self.buffer = buffer
        self.at = at
        self.end = buffer.size if end is None else end

    def __bool__(self) -> bool:
        return self.at < self.end

    def value(self) -> Any:
        """The next value: dicts with text keys, lists, numbers, text, `Span` for bytes, `StoredArray` for arrays.

        Raises:
          DamagedError: It is none, or it ends after the file.
        """
        first = self._take(1)[0]
        if first <= 0x7F or first >= 0xE0:
            return first if first <= 0x7F else first - 0x100
        if first <= 0x8F or first in (0xDE, 0xDF):
            return self._map(first & 0x0F if first <= 0x8F else self._number(SIZES[first - 0xDD]))
        if first <= 0x9F or first in (0xDC, 0xDD):
            return [self.value() for _ in range(first & 0x0F if first <= 0x9F else self._number(SIZES[first - 0xDB]))]
        if first <= 0xBF or first in (0xD9, 0xDA, 0xDB):
            return self._text(first & 0x1F if first <= 0xBF else self._number(SIZES[first - 0xD9]))
        if first in (0xC4, 0xC5, 0xC6):
            return self._span(self._number(SIZES[first - 0xC4]))
        if first in (0xC7, 0xC8, 0xC9):
            return self._extension(self._number(SIZES[first - 0xC7]))
        if first in (0xD4, 0xD5, 0xD6, 0xD7, 0xD8):
            return self._extension(1 << (first - 0xD4))
        if first in NUMBERS:
            return self._number(NUMBERS[first])
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        raise DamagedError(f"byte {self.at - 1} is no msgpack")

    def _map(self, count: int) -> Any:
        found = {}
        for _ in range(count):
            key = self.value()
            if isinstance(key, Span):
                key = self.buffer.data[key.start : key.start + key.size].decode(errors="replace")
            found[str(key)] = self.value()
        return _joined(self.buffer, found) if CHUNKED in found else found

    def _text(self, size: int) -> Any:
        span = self._span(size)
        try:
            text = bytes(self.buffer.data[span.start : span.start + size]).decode()
        except UnicodeDecodeError:
            return span  # what an old msgpack writes for bytes
        prefix = next((one for one in PLACEHOLDERS if text.startswith(one)), None)
        return text if prefix is None else Placeholder(text.removeprefix(prefix))

    def _extension(self, size: int) -> Any:
        kind = self._number(">b")
        span = self._span(size)
        inner = Reader(self.buffer, span.start, span.start + size)
        if kind in (ARRAY, SCALAR):
            return _array(self.buffer, inner)
        if kind == COMPLEX:
            return complex(*inner.value())
        return None

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _take(self, size: int) -> bytes:
        span = self._span(size)
        return bytes(self.buffer.data[span.start : span.start + size])

    def _span(self, size: int) -> Span:
        if self.at + size > self.end:
            raise DamagedError(f"it is cut off: {self.at + size - self.end} bytes are missing at its end")
        start, self.at = self.at, self.at + size
        return Span(start, size)


def _array(buffer: Buffer, inner: Reader) -> StoredArray:
    parts = inner.value()
    if not isinstance(parts, list) or len(parts) != 3:
        raise DamagedError(f"byte {inner.at} is no array")
    shape, name, span = tuple(parts[0]), parts[1], parts[2]
    if isinstance(span, str):  # an old msgpack, and bytes that happen to be text
        span = Span(inner.at - len(span.encode()), len(span.encode()))
    if isinstance(name, Span):
        name = bytes(buffer.data[name.start : name.start + name.size]).decode(errors="replace")
    dtype = dtype_named(str(name))
    if span.size != math.prod(shape) * dtype.itemsize:
        raise DamagedError(f"an array of {dtype.name}{list(shape)} has {span.size} bytes")
    return StoredArray(shape=shape, dtype=dtype, read=lambda: buffer.array(span, shape, dtype))


def _joined(buffer: Buffer, parts: Mapping[str, Any]) -> StoredArray:
    """An array that Flax wrote in several pieces, since msgpack has a limit of 2 GB."""
    try:
        shape = tuple(_in_order(parts["shape"]))
        chunks = list(_in_order(parts["chunks"]))
        dtype = chunks[0].dtype
    except (KeyError, AttributeError, IndexError):
        raise DamagedError("an array in chunks lacks its shape or chunks") from None
    if sum(math.prod(chunk.shape) for chunk in chunks) != math.prod(shape):
        raise DamagedError(f"the chunks of an array of {dtype.name}{list(shape)} are not all there")

    def read() -> np.ndarray:
        whole = np.empty(math.prod(shape), dtype)
        start = 0
        for chunk in chunks:
            whole[start : start + chunk.shape[0]] = chunk.read()
            start += chunk.shape[0]
        return whole.reshape(shape)

    return StoredArray(shape=shape, dtype=dtype, read=read)


def _in_order(numbered: Mapping[str, Any]) -> Iterator[Any]:
    return (numbered[str(index)] for index in range(len(numbered)))


def as_tree(value: Any) -> Any:
    """A value as nested dicts of arrays and numbers: lists by index, text and nothing left out."""
    if isinstance(value, list):
        value = {str(index): item for index, item in enumerate(value)}
    if isinstance(value, dict):
        found = {key: as_tree(item) for key, item in value.items()}
        return {key: item for key, item in found.items() if item is not None}
    if isinstance(value, (bool, int, float, complex)):
        return np.asarray(value)
    return value if isinstance(value, (StoredArray, Placeholder)) else None
