"""`wandb agent` as the driver: it types what a W&B sweep chose, and the runs belong to that sweep."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from wandb_sent import environment, execute

from runner.commands import main
from runner.commands.typed.hydra_command import as_override


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--seed=1", "seed=1"),
        ("--train.learning_rate=0.01", "train.learning_rate=0.01"),
        ("--input_shape=[4, 8]", "input_shape=[4,8]"),
        ("--layer.kwargs.use_bias=False", "layer.kwargs.use_bias=false"),
        ("--features=None", "features=null"),
        ("--layer.kwargs={'hidden': [4, 8]}", "layer.kwargs={hidden:[4,8]}"),
        ("--layer=mlp", "layer=mlp"),
        ("--tracking.notes=this, that", "tracking.notes='this, that'"),
        ("seed=1", "seed=1"),
        ("--cfg=job", "--cfg=job"),
        ("--config-dir=mine", "--config-dir=mine"),
        ("--multirun", "--multirun"),
    ],
)
def test_an_agents_words_are_overrides(typed, meant):
    assert as_override(typed) == meant


@pytest.mark.parametrize("verb", ["plan", "check"])
def test_verbs_take_an_agents_words(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--seed=1", "--layer=linear", "--input_shape=[2, 4]", "--layer.kwargs={'use_bias': False}"]
    assert main.main([verb, *(["--traced"] if verb == "check" else []), *words]) == 0
    assert "linear on x float32[2, 4], cpu" in capsys.readouterr().out.replace("[2,4]", "[2, 4]")


COMMANDS = [
    ["${env}", "${interpreter}", "${program}", "${args}"],  # what an agent does by default
    ["${env}", "bridge-runner", "timing=off", "${args_no_hyphens}"],
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=["args", "args_no_hyphens"])
def test_an_agent_drives_runs(command, server, tmp_path):
    server.agent_command, server.program = command, str(Path(sys.executable).parent / "bridge-runner")
    chosen = [{"seed": 0, "input_shape": [2, 4]}, {"seed": 1, "input_shape": [4]}]
    server.trials = [
        {"run_id": f"trial{num}", "args": {key: {"value": value} for key, value in one.items()}}
        for num, one in enumerate(chosen)
    ]
    known = environment(tmp_path / "home", server.url) | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = execute(tmp_path, "wandb", "agent", "team/searched/sw1", environment=known)
    assert (done.returncode, server.trials, server.errors) == (0, [], []), done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/runs/*/record.json")]
    found = [{key: record["settings"][key] for key in ("seed", "input_shape")} for record in records]
    assert sorted(found, key=lambda one: one["seed"]) == chosen
    sent = {run.summary["run_id"]: run for run in server.runs.values()}
    assert sent.keys() == {record["run_id"] for record in records}
    assert not {"trial0", "trial1"} & server.runs.keys()
    assert {(run.fields["sweep"], run.fields["project"]) for run in sent.values()} == {("sw1", "searched")}
