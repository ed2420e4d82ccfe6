"""The files of offline W&B runs, read without wandb's help."""

from __future__ import annotations

import pytest

from runner.tracking import wandb_files


@pytest.mark.parametrize("sweep", ["demo", "a.b", "x" * 100])
def test_ids_are_safe_and_unique(sweep):
    ids = {wandb_files.wandb_id(sweep, name) for name in ("a1", "a2")} | {wandb_files.wandb_id("a-b", "a1")}
    assert len(ids) == 3
    assert all(len(one) <= 64 and one.replace("-", "").isalnum() for one in ids)
