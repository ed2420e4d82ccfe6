"""The files of offline W&B runs, read without wandb's help."""

from __future__ import annotations

import os

import pytest

from runner.records.paths import SweepFolder
from runner.tracking import wandb_files, wandb_tracker


@pytest.mark.parametrize("sweep", ["demo", "a.b", "x" * 100])
def test_ids_are_safe_and_unique(sweep):
    ids = {wandb_files.wandb_id(sweep, name) for name in ("a1", "a2")} | {wandb_files.wandb_id("a-b", "a1")}
    assert len(ids) == 3
    assert all(len(one) <= 64 and one.replace("-", "").isalnum() for one in ids)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("results.parquet", lambda path: wandb_tracker.results_digest(SweepFolder(path))),
        ("run-a.wandb", wandb_files.read_offline_run),
        (wandb_files.SENT, wandb_files.read_sent),
    ],
)
def test_fifos_are_refused_without_waiting(name, read, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match="it is a FIFO, and no file"):
        read(tmp_path)
