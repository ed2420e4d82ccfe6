"""The artifact of a W&B run: its folder, so that another machine can reload the run; for opted-in runs only."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from runner.config.settings.execution import TrackingSettings
from runner.records import codec
from runner.records.paths import RunFolder
from runner.records.record import Record


def log_artifact(wandb: Any, run: Any, record: Record, run_dir: Path, settings: TrackingSettings) -> None:
    """Logs the run's folder as an artifact, or a reference to its checkpoint if it is too large.

    Args:
      wandb: The package.
      run: The open W&B run.
      record: The run's record.
      run_dir: The run's folder.
      settings: How large the artifact may be.
    """
    if not record.checkpoint or not (checkpoint := run_dir / record.checkpoint.path).exists():
        return
    paths = [path for path in (run_dir / name for name in record.files) if path.is_file()]
    kept = record.settings.get("checkpoint", {}).get("keep", "all") == "all"
    whole = kept and sum(path.stat().st_size for path in paths) <= settings.artifact_max_bytes
    metadata = dataclasses.asdict(record.checkpoint) | {"files": whole}
    artifact = wandb.Artifact(f"checkpoint-{run.id}", type="checkpoint", metadata=metadata)
    if whole:
        # A run's files never change, so W&B reads them where they are. Its record does: the cost of tracking is added.
        with artifact.new_file(RunFolder(run_dir).record.name, "wb") as file:
            file.write(codec.to_json(record))
        for path in paths:
            artifact.add_file(str(path), str(path.relative_to(run_dir)), skip_cache=True, policy="immutable")
    else:
        # W&B's own checksum costs 100 ms for 50 MB; the record's digest is in the metadata.
        artifact.add_reference(checkpoint.resolve().as_uri(), checksum=False)
    run.log_artifact(artifact)
