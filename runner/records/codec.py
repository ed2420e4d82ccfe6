"""Converts records to and from JSON, with a schema version and a SHA-256 seal."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import gc
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from runner.errors import StorageError
from runner.records.record import SCHEMA_VERSION, Record

# The last line of a record: the SHA-256 of everything before it, so that a flipped bit is detected.
SEAL_START = b',\n "digest": "'
SEAL = re.compile(SEAL_START + rb'([0-9a-f]{64})"\n}\s*$')

# Importing pydantic takes as long as Python's own parser does for so much.
SMALL_BYTES = 2**20

REDO = "run the same sweep again: what is damaged is done again"


def to_json(record: Record) -> bytes:
    """`record` as indented JSON; infinities and NaN as `Infinity`, `-Infinity`, `NaN`, which Python's json reads."""
    return seal(data_to_json(record))


def data_to_json(data: Any) -> bytes:
    """JSON data, which may hold records, as indented JSON; nine times as fast as Python's own encoder."""
    import pydantic_core

    try:
        return pydantic_core.to_json(data, indent=1, inf_nan_mode="constants")
    except pydantic_core.PydanticSerializationError:
        # A lone surrogate, as in an error about a file name, is not valid UTF-8 and could not be read back.
        return json.dumps(data, indent=1, ensure_ascii=False, default=_plain).encode(errors="replace")


def _plain(item: Any) -> Any:
    return item.value if isinstance(item, enum.Enum) else dataclasses.asdict(item)


def seal(text: bytes) -> bytes:
    """Returns an object's JSON, indented by one, with its SHA-256 as the last key."""
    digest = hashlib.sha256(text).hexdigest()
    return text.removesuffix(b"\n}") + f',\n "digest": "{digest}"\n}}\n'.encode()


def to_data(record: Record) -> dict[str, Any]:
    """`record` as JSON data: dicts, lists, strings, numbers."""
    data = json.loads(to_json(record))
    assert isinstance(data, dict)
    del data["digest"]
    return data


def is_whole(text: bytes) -> bool:
    """Whether `text` is an intact record, by version and digest alone: agrees with `from_json`, and is faster."""
    return text.startswith(b'{\n "schema_version": %d,' % SCHEMA_VERSION) and is_sealed(text)


def is_sealed(text: bytes) -> bool:
    """Whether `text` is what `seal` returned, by its digest."""
    start = text.rfind(SEAL_START)
    sealed = SEAL.match(text, start) if start >= 0 else None
    if sealed is None:
        return False
    digest = hashlib.sha256(memoryview(text)[:start])  # not a copy: the plan of many runs is large
    digest.update(b"\n}")
    return digest.hexdigest() == sealed[1].decode()


def loads(text: bytes) -> Any:
    """JSON as data, whatever Python's own parser takes: lone surrogates too.

    Raises:
      ValueError: It is no JSON.
    """
    if len(text) < SMALL_BYTES and "pydantic_core" not in sys.modules:
        return json.loads(text)
    try:
        return parse(text)
    except ValueError:
        return json.loads(text)


def parse(text: bytes) -> Any:
    """JSON as data, twice as fast as by Python's own parser, and without a search for garbage in what only grows.

    Raises:
      ValueError: It is no JSON, or has a lone surrogate.
    """
    import pydantic_core

    if not gc.isenabled():
        return pydantic_core.from_json(text)
    with growing():
        return pydantic_core.from_json(text)


@contextlib.contextmanager
def growing() -> Iterator[None]:
    """Puts off the search for garbage while data are read that only grow: it takes a fifth of the time, or more."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def from_json(text: bytes | str, where: str = "record", data_of: Callable[[bytes], Any] = parse) -> Record:
    """Parses a record written by `to_json`.

    Args:
      text: The text.
      where: Names it in errors.
      data_of: Reads JSON as `parse` does.

    Raises:
      StorageError: The text is not a record, or its version is unsupported.
    """
    import pydantic

    text = text.encode() if isinstance(text, str) else text
    try:
        data = data_of(text)
    except ValueError as error:
        raise StorageError(f"{where} is damaged: {error}", REDO) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise StorageError(f"{where} has record version {version}, this program reads {SCHEMA_VERSION}")
    data.pop("digest", None)
    if not is_sealed(text):
        raise StorageError(f"{where} is damaged: it is not what was written, by its digest", REDO)
    try:
        return _adapter().validate_python(data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"{where} is no record: {place}: {first['msg']}") from error


@functools.cache
def _adapter() -> Any:
    import pydantic

    return pydantic.TypeAdapter(Record)
