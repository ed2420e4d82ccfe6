"""Reads the files of offline W&B runs: where each run is, whether it is complete, and what was uploaded.

wandb has no public reader: a run's file is a LevelDB log (https://github.com/google/leveldb/blob/main/doc/log_format.md)
of protobuf records, after a header.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.records.disk import plain_files

MAX_ID_CHARACTERS = 64
STAMP = "????????_??????"
OFFLINE = "offline-run-"
SENT = "sent.jsonl"

HEADER_BYTES = 7
BLOCK_BYTES = 32768
CHUNK = struct.Struct("<IHB")
FULL, FIRST, LAST = 1, 2, 4


def wandb_id(sweep: str, name: str) -> str:
    """A valid W&B id (letters, digits, '-' and '_', at most 64 characters), unique to its arguments."""
    whole = f"{sweep}-{name}"
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", whole)
    if safe == whole and len(safe) <= MAX_ID_CHARACTERS:
        return safe
    return f"{safe[: MAX_ID_CHARACTERS - 13]}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class OfflineRun:
    """The contents of a W&B run's file, as far as a server can be queried for them.

    Attributes:
      folder: `offline-run-<stamp>-<id>`.
      wandb_id: Its id.
      entity: The user or team that owns it; empty for the account's default.
      project: The project that it belongs to.
      exit_code: How it ended.
      num_rows: Rows of its history.
      artifacts: Names of its artifacts.
      summary: Its summary, without media.
    """

    folder: Path
    wandb_id: str
    entity: str
    project: str
    exit_code: int
    num_rows: int
    artifacts: frozenset[str]
    summary: Mapping[str, Any]

    @property
    def files(self) -> frozenset[str]:
        """Its media, by path."""
        root = self.folder / "files"
        return frozenset(path.relative_to(root).as_posix() for path in root.glob("media/**/*") if path.is_file())


def find_offline_runs(wandb_dir: Path) -> dict[str, Path]:
    """The folder of each W&B run by id: one listing, since finding one among 10,000 takes milliseconds."""
    found = sorted(wandb_dir.glob(f"{OFFLINE}{STAMP}-*"))
    return {path.name.removeprefix(OFFLINE)[len(STAMP) + 1 :]: path for path in found}


def read_offline_run(folder: Path) -> OfflineRun | None:
    """Reads the run's file in `folder`; None if it is missing or incomplete (the run was killed or is still active)."""
    from wandb.proto import wandb_internal_pb2

    message: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]
    path = next(folder.glob("*.wandb"), None)
    num_rows, exit_code, artifacts = 0, None, set()
    entity = project = ""
    summary: dict[str, Any] = {}
    for payload in payloads(plain_files.read_bytes(path) if path else b""):
        record = message.FromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            entity, project = record.run.entity, record.run.project
        elif kind == "history":
            num_rows += 1
        elif kind == "summary":
            values = {item.key: json.loads(item.value_json) for item in record.summary.update}
            summary |= {key: value for key, value in values.items() if not isinstance(value, (dict, list))}
        elif kind == "artifact":
            artifacts.add(record.artifact.name)
        elif kind == "exit":
            exit_code = record.exit.exit_code
    if exit_code is None:
        return None
    return OfflineRun(
        folder=folder,
        wandb_id=folder.name.removeprefix(OFFLINE)[len(STAMP) + 1 :],
        entity=entity,
        project=project,
        exit_code=exit_code,
        num_rows=num_rows,
        artifacts=frozenset(artifacts),
        summary=summary,
    )


def payloads(data: bytes) -> Iterator[bytes]:
    """The records of a run's file, as raw bytes; a torn last record is skipped."""
    position, whole = HEADER_BYTES, b""
    while position + CHUNK.size <= len(data):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < CHUNK.size:
            position += left
            continue
        _, size, kind = CHUNK.unpack_from(data, position)
        position += CHUNK.size
        if kind == 0 or position + size > len(data):
            return
        part = data[position : position + size]
        position += size
        whole = part if kind in (FULL, FIRST) else whole + part
        if kind in (FULL, LAST):
            yield whole


def read_sent(wandb_dir: Path, server: str | None = None) -> dict[str, str]:
    """URLs of the runs uploaded to `server`, or to any, by folder name; a torn last line is skipped."""
    path = wandb_dir / SENT
    sent = {}
    for line in plain_files.read_bytes(path).split(b"\n") if path.exists() else ():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if server in (None, entry["server"]):
                sent[entry["folder"]] = entry["url"]
    return sent


def append_sent(wandb_dir: Path, server: str, sent: Mapping[str, str]) -> None:
    """Records that runs were uploaded; flushed to disk on return."""
    lines = [json.dumps({"folder": name, "server": server, "url": url}) for name, url in sent.items()]
    # Terminates a line torn by a kill.
    with plain_files.append(wandb_dir / SENT) as file:
        file.write("".join(f"\n{line}\n" for line in lines).encode())
        os.fsync(file.fileno())
