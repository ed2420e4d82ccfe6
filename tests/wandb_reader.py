"""Reads an offline W&B run back, since wandb has no public reader: its file is a LevelDB log of protobuf records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER_BYTES = 7
BLOCK_BYTES = 32768
CHUNK = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_offline_run(path: Path) -> dict[str, Any]:
    """What one `offline-run-*` folder holds.

    Args:
      path: The folder.

    Returns:
      run_id, name, group, job_type, tags, notes, exit_code, config, summary, history (one dict a row) and artifacts
      (one dict each: type, name, metadata and references).
    """
    from wandb.proto import wandb_internal_pb2

    (file,) = path.glob("*.wandb")
    read: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "artifacts": [], "exit_code": None}
    for payload in _payloads(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            read |= {"run_id": run.run_id, "name": run.display_name, "group": run.run_group, "job_type": run.job_type}
            read |= {"tags": list(run.tags), "notes": run.notes, "project": run.project}
            read["config"] |= _items(run.config.update)
        elif kind == "config":
            read["config"] |= _items(record.config.update)
        elif kind == "summary":
            read["summary"] |= _items(record.summary.update)
        elif kind == "history":
            read["history"].append(_items(record.history.item))
        elif kind == "artifact":
            read["artifacts"].append(_artifact(record.artifact))
        elif kind == "exit":
            read["exit_code"] = record.exit.exit_code
    read["config"].pop("_wandb", None)
    return read


def _artifact(artifact: Any) -> dict[str, Any]:
    metadata = json.loads(artifact.metadata or "null")
    references = [entry.ref for entry in artifact.manifest.contents if entry.ref]
    return {"type": artifact.type, "name": artifact.name, "metadata": metadata, "references": references}


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _payloads(data: bytes) -> Iterator[bytes]:
    position, whole = HEADER_BYTES, b""
    while position + CHUNK.size <= len(data):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < CHUNK.size:
            position += left
            continue
        _, size, kind = CHUNK.unpack_from(data, position)
        if kind == 0:
            return
        position += CHUNK.size
        part = data[position : position + size]
        position += size
        whole = part if kind in (FULL, FIRST) else whole + part
        if kind in (FULL, LAST):
            yield whole
