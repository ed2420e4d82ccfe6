"""What W&B's environment variables set where the config says nothing."""

from __future__ import annotations

import os

import pytest

from runner.config import wandb_environment
from runner.config.enums import TrackingMode
from runner.config.settings.execution import TrackingSettings
from runner.config.wandb_environment import overruled
from runner.errors import ConfigError

TOLD = {
    "WANDB_PROJECT": "theirs",
    "WANDB_ENTITY": "team",
    "WANDB_RUN_GROUP": "one group",
    "WANDB_TAGS": "a, b",
    "WANDB_NOTES": "why",
}


@pytest.fixture
def told(monkeypatch):
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)


def test_variables_fill_what_is_open(told, make_run):
    found = make_run().tracking
    assert (found.project, found.entity, found.group) == ("theirs", "team", "one group")
    assert (found.tags, found.notes) == (["a", "b"], "why")


def test_the_config_wins(told, make_run):
    typed = ["project=mine", "entity=me", "group=g", "tags=[c]", "notes=n"]
    found = make_run(*(f"tracking.{word}" for word in typed)).tracking
    assert (found.project, found.entity, found.group, found.tags, found.notes) == ("mine", "me", "g", ["c"], "n")
    assert overruled(found) == [
        "tracking.project=mine wins over WANDB_PROJECT=theirs",
        "tracking.entity=me wins over WANDB_ENTITY=team",
        "tracking.group=g wins over WANDB_RUN_GROUP=one group",
        "tracking.tags=[c] wins over WANDB_TAGS=a, b",
        "tracking.notes=n wins over WANDB_NOTES=why",
    ]


def test_nothing_is_overruled_by_default(told, make_run):
    assert overruled(make_run().tracking) == []
    assert overruled(TrackingSettings(mode=TrackingMode.tensorboard, project="mine")) == []


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "offline"),
        ({"WANDB_MODE": ""}, "offline"),
    ],
)
def test_modes_are_taken_from_the_environment(variables, mode, make_run, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert make_run().tracking.mode.value == mode
    typed = make_run("tracking=tensorboard").tracking
    assert (typed.tracker, overruled(typed)) == ("tensorboard", [])


OTHERS = ("tracking.name=mlflow", "tracking=aim", "tracking=mlflow", "tracking=tensorboard")


@pytest.mark.parametrize("words", [(word,) for word in OTHERS])
def test_other_trackers_ignore_the_environment(told, words, make_run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    found = make_run(*words).tracking
    assert (found.tracker, found.project) == (words[0].partition("=")[2], None)
    assert make_run(*words, "tracking.mode=disabled").tracking.tracker is None


def test_an_agents_runs_are_sent(make_run, monkeypatch):
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        assert make_run().tracking.mode is TrackingMode.offline
        monkeypatch.setenv(name, "sw1")
    found = make_run().tracking
    assert (found.mode, found.wandb_sweep) == (TrackingMode.online, "sw1")
    assert make_run("tracking=offline").tracking.mode is TrackingMode.offline


def test_unknown_modes_are_refused(make_run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offlin")
    with pytest.raises(ConfigError, match=r"WANDB_MODE=offlin: W&B's modes are online, .*\n  Try: WANDB_MODE=offline"):
        make_run()
    assert overruled(make_run("tracking=offline").tracking) == []


def test_the_sweeps_folder_wins(make_run, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", "/data")
    (said,) = overruled(make_run().tracking)
    assert said == "its files stay in the sweep's folder, not in WANDB_DIR=/data (see output_root)"
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    assert overruled(make_run().tracking) == ["each run has an id of its own, not WANDB_RUN_ID=theirs"]


def test_hidden_variables_come_back(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    monkeypatch.setenv("WANDB_API_KEY", "k")
    with wandb_environment.hidden():
        assert "WANDB_RUN_ID" not in os.environ
        assert os.environ["WANDB_API_KEY"] == "k"
        os.environ["WANDB_PROJECT"] = "set meanwhile"
    assert os.environ["WANDB_RUN_ID"] == "theirs"
    assert "WANDB_PROJECT" not in os.environ
