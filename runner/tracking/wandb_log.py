"""Writes the file of a lean offline W&B run without wandb: a run takes it 40 ms of CPU, and this 1 ms.

The format is the one that `wandb_files` reads: a log of protobuf records (wandb/proto/wandb_internal.proto; the numbers
of fields are wandb's, and never change). `wandb sync`, `wandb leet` and wandb's own reader take it; the tests hold it
against what wandb itself writes.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import platform
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.tracking.payload import cell
from runner.tracking.wandb_files import BLOCK_BYTES, CHUNK, FIRST, FULL, HEADER_BYTES, LAST

HEADER = b":W&B\xe1\xbe\x00"
MIDDLE = 3
MIN_CONSUMER = "0.70.0"

# Kinds of records, as fields of `Record`.
HISTORY, SUMMARY, METRIC, RUN, EXIT, VERSION = 2, 3, 12, 17, 18, 21
# The fields of `RunRecord` that hold text.
TEXTS = {"id": 1, "entity": 2, "project": 3, "group": 6, "job_type": 7, "name": 8, "notes": 9, "sweep_id": 12}
VALUE_JSON = 16


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """What a W&B run's file holds.

    Attributes:
      texts: By name, those of `TEXTS`; None is left out.
      tags: Tags of the run.
      config: Its config.
      axes: The x axis of each metric.
      rows: Its history.
      summary: Its summary, besides the last values of its history.
      started_s: When it started, in seconds since 1970.
      wall_s: How long it took.
      exit_code: How it ended.
    """

    texts: Mapping[str, str | None]
    tags: Sequence[str]
    config: Mapping[str, Any]
    axes: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    started_s: float
    wall_s: float
    exit_code: int

    def write(self, path: Path) -> None:
        """Writes the file."""
        path.write_bytes(_chunked(_int(1, num) + record for num, record in enumerate(self._records(), start=1)))

    def _records(self) -> Iterator[bytes]:
        yield _bytes(VERSION, _bytes(1, _text(1, _version()) + _text(2, MIN_CONSUMER)))
        yield _bytes(RUN, self._run())
        for name, axis in self.axes.items():
            # Options: the axis is logged with the metric, and somebody chose it.
            yield _bytes(METRIC, _text(1, name) + _text(4, axis) + _bytes(6, _int(1, 1) + _int(3, 1)))
        last: dict[str, Any] = {}
        at = {"_runtime": self.wall_s, "_timestamp": self.started_s + self.wall_s}
        for step, row in enumerate(self.rows):
            last |= dict(row) | at | {"_step": step}
            yield _bytes(HISTORY, _items({**row, **at, "_step": step}, nested=True))
        runtime = {"_runtime": int(self.wall_s), "_wandb": {"runtime": int(self.wall_s)}}
        yield _bytes(SUMMARY, _items(dict(self.summary) | last | runtime, nested=True))
        yield _bytes(EXIT, _int(1, self.exit_code) + _int(2, int(self.wall_s)))

    def _run(self) -> bytes:
        texts = b"".join(_text(TEXTS[name], value) for name, value in self.texts.items() if value)
        tags = b"".join(_text(10, tag) for tag in self.tags)
        seconds = math.floor(self.started_s)
        start = _int(1, seconds) + _int(2, int((self.started_s - seconds) * 1e9))
        return (
            texts
            + _bytes(4, _items({"_wandb": {}} | dict(self.config)))
            + tags
            + _text(13, platform.node())
            + _bytes(17, start)
        )


@functools.cache
def _version() -> str:
    return importlib.metadata.version("wandb")


def _items(values: Mapping[str, Any], *, nested: bool = False) -> bytes:
    """Config, summary or history; `nested`: the values of a dict, as of a histogram, are items of their own."""
    made = []
    for key, value in values.items():
        if nested and isinstance(value, Mapping) and value:
            parts = [_text(2, key) + _text(2, name) + _text(VALUE_JSON, _json(inner)) for name, inner in value.items()]
        else:
            parts = [_text(2 if nested else 1, key) + _text(VALUE_JSON, _json(value))]
        made += [_bytes(1, part) for part in parts]
    return b"".join(made)


def _json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else cell(value)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode(errors="replace"))


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def _chunked(records: Iterator[bytes]) -> bytes:
    """A LevelDB log: records cut at the ends of blocks, each part with its checksum; see `wandb_files.payloads`."""
    made = bytearray(HEADER)
    assert len(made) == HEADER_BYTES
    for record in records:
        position, first = 0, True
        while first or position < len(record):
            left = BLOCK_BYTES - len(made) % BLOCK_BYTES
            if left < CHUNK.size:
                made += bytes(left)
                continue
            part = record[position : position + left - CHUNK.size]
            position += len(part)
            ends = position == len(record)
            kind = (FULL if ends else FIRST) if first else (LAST if ends else MIDDLE)
            made += CHUNK.pack(zlib.crc32(part, zlib.crc32(bytes([kind]))), len(part), kind) + part
            first = False
    return bytes(made)
