"""What a command ends with, where that hangs on how the whole went."""

from __future__ import annotations

import os

import pytest

from runner.commands import main
from runner.commands.saved import wandb_sync
from runner.config.composing.composed import Config
from runner.launch import application
from runner.records.paths import SweepFolder
from runner.records.row import Row
from runner.report.terminal import Terminal
from runner.sweep import followers
from runner.sweep.plan import make_plan
from runner.sweep.reporter import SweepOutcome
from runner.tracking import wandb_files
from runner.tracking.wandb_server import Server

URL = "https://wandb.example"


def rows(*statuses: str) -> list[Row]:
    return [
        Row(num=num, run_id=f"{num}", status=status, layer="linear", device="cpu:0")
        for num, status in enumerate(statuses)
    ]


@pytest.mark.parametrize(
    ("interrupted", "statuses", "code"),
    [
        (False, ["done", "done"], 0),
        (False, ["done", "failed"], 1),
        (False, ["done", "missing"], 1),
        (True, ["done", "done"], 130),
        (True, ["done", "failed"], 130),
    ],
)
def test_a_sweep_ends_as_its_runs(interrupted, statuses, code):
    outcome = SweepOutcome(num_failed=statuses.count("failed"), interrupted=interrupted, stopped=None)
    assert application._exit_code(outcome, rows(*statuses)) == code


@pytest.mark.parametrize(("target", "code"), [("exiting_layers.Scale", 0), ("exiting_layers.ExitsWhenExecuted", 1)])
def test_followers_end_as_their_run(target, code, make_run, tmp_path):
    lean = ("timing=off", "checks=off", "tracking=disabled", "checkpoint=none")
    run = make_run("layer=custom", f"layer.target={target}", *lean)
    plan = make_plan([Config(run=run)], lambda _: SweepFolder(tmp_path / "s"))
    assert followers.follow(plan) == code


def test_failures_reach_other_sweepers(here, capsys):
    words = ("-m", "hydra/sweeper=basic", "layer=custom", "layer.target=exiting_layers.ExitsWhenExecuted", "seed=0")
    assert main.main([*words, "timing=off", "checks=off", "tracking=disabled", "sweep=s"]) == 1
    assert "run 0 failed: " in capsys.readouterr().err


def test_ctrl_c_ends_a_command_with_130(monkeypatch, capsys):
    def interrupted(_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # pytest asks for paths too
        patch.setattr(os.path, "exists", interrupted)
        code = main.main(["show", "nowhere"])
    assert code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize(("sent", "code"), [((0, 1), 0), ((1,), 1), ((), 1)])
def test_sync_ends_well_with_every_run(sent, code, tmp_path, capsys):
    folder = SweepFolder(tmp_path)
    names = {f"run{num}": f"offline-run-20260101_000000-run{num}" for num in range(2)}
    for name in names.values():
        (folder.wandb / name).mkdir(parents=True)
    wandb_files.append_sent(folder.wandb, URL, {names[f"run{num}"]: f"{URL}/a/b/runs/run{num}" for num in sent})
    sweep = wandb_sync._Sweep(folder=folder, rows=rows("done", "done"), names=names)
    server = Server(URL, None, "me", lambda: None)
    assert wandb_sync._conclude(sweep, server, Terminal()) == code
    place = f"{URL}/a/b" if sent else URL
    assert capsys.readouterr().out == f"{len(sent)} of 2 W&B runs are at {place}\n"
