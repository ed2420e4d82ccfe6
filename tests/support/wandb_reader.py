"""All that an offline W&B run holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner.tracking import wandb_files


def read_offline_run(path: Path) -> dict[str, Any]:
    """What one `offline-run-*` folder holds.

    Args:
      path: The folder.

    Returns:
      run_id, name, group, job_type, tags, notes, exit_code, config, summary, history (one dict a row), artifacts (one
      dict each: type, name, metadata, files and references) and axes (what each metric is drawn against).
    """
    from wandb.proto import wandb_internal_pb2

    (file,) = path.glob("*.wandb")
    read: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "artifacts": [], "axes": {}, "exit_code": None}
    for payload in wandb_files.payloads(file.read_bytes()):
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
        elif kind == "metric" and record.metric.step_metric:
            read["axes"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "exit":
            read["exit_code"] = record.exit.exit_code
    read["config"].pop("_wandb", None)
    return read


def _artifact(artifact: Any) -> dict[str, Any]:
    metadata = json.loads(artifact.metadata or "null")
    entries = artifact.manifest.contents
    files = {entry.path: entry.local_path for entry in entries if not entry.ref}
    kind = {"type": artifact.type, "name": artifact.name, "metadata": metadata}
    return kind | {"files": files, "references": [entry.ref for entry in entries if entry.ref]}


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
