"""What a sweep makes of the settings that surround it: W&B's variables, and Hydra's own keys."""

from __future__ import annotations

import pytest

from runner.commands import main

BARE = ("timing=off", "checks=off", "checkpoint=none")
QUIET = (*BARE, "tracking=disabled")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_overruled_variables_are_named(here, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_MODE", "online")
    assert main.main([*BARE, "tracking=offline", "tracking.project=mine"]) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  W&B ")]
    assert said == [
        "W&B         tracking.mode=offline wins over WANDB_MODE=online",
        "W&B         tracking.project=mine wins over WANDB_PROJECT=theirs",
    ]


def test_wandb_mode_disables_tracking(here, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main.main([*BARE, "sweep=one"]) == 0
    assert not (here / "outputs" / "one" / "wandb").exists()
