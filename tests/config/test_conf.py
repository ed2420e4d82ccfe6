"""The files of conf/: every choice composes, says what it is for, and every experiment keeps its promise's form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from runner.commands import main
from runner.config import conf_folder, schema

CONF = conf_folder.config_dir()
CHOICES = [path for path in sorted(CONF.glob("*/*.yaml")) if path.parent.name not in ("experiment", "debug")]
# What a choice needs beside itself to have a meaning.
NEEDS = {"custom": ["layer.target=flax.nnx.PReLU"], "file": ["input.path=x.npy"], "tokens": ["input.high=8"]}
NEEDS |= {"jax": ["mesh.axes={data:2}"]}


@pytest.fixture(scope="module")
def loader():
    """Hydra's own, opened on conf/ once for all files of it."""
    schema.register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return GlobalHydra.instance().config_loader()


@pytest.mark.sampled
@pytest.mark.parametrize("path", CHOICES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_choice_composes(path, loader):
    typed = [f"{path.parent.name}={path.stem}", *NEEDS.get(path.stem, [])]
    composed = loader.load_configuration("config", typed, RunMode.RUN)
    assert composed.hydra.runtime.choices[path.parent.name] == path.stem
    with open_dict(composed):
        del composed["hydra"]
    schema.from_config(composed)


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_conf_file_states_its_purpose(path):
    lines = [line for line in path.read_text().splitlines() if line not in ("#", "# @package _global_")]
    assert lines[0].startswith("# ")


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_experiments_state_question_command_and_cost(path):
    text = path.read_text()
    assert re.search(r"^# [A-Z].*\?$", text, flags=re.MULTILINE)
    assert f"#   bridge-runner -m +experiment={path.stem}\n" in text
    assert re.search(r"^# Expect: .+", text, flags=re.MULTILINE)
    assert re.search(r"^# Cost:   .+ \(measured \d{4}-\d{2}-\d{2}, .+\)\.$", text, flags=re.MULTILINE)


# These trace every layer of conf.
LONG = ("layers", "matrix")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=[pytest.mark.slow] if path.stem in LONG else [])
        for path in sorted((CONF / "experiment").glob("*.yaml"))
    ],
)
def test_every_experiment_composes(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["plan", f"+experiment={name}"]) == 0
    assert re.search(r"\d+ runs · \d+ programs?", capsys.readouterr().out)


LAUNCHERS = sorted((CONF / "hydra" / "launcher").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_every_launcher_composes_and_is_explained(path):
    schema.register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = hydra.compose("config", [f"hydra/launcher={path.stem}"], return_hydra_config=True).hydra.launcher
    assert chosen == OmegaConf.load(path)  # nothing of a plugin's own entry of this name
    assert re.search(r"^# .*\b(for|to try)\b", path.read_text(), flags=re.MULTILINE | re.IGNORECASE)


SAMPLERS = sorted((CONF / "hydra" / "sweeper" / "sampler").glob("*.yaml"))


@pytest.mark.parametrize("path", SAMPLERS, ids=lambda path: path.stem)
def test_every_sampler_composes_and_is_explained(path):
    schema.register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        typed = ["hydra/sweeper=optuna", f"hydra/sweeper/sampler={path.stem}"]
        chosen = hydra.compose("config", typed, return_hydra_config=True).hydra.sweeper
    assert chosen._target_ == "hydra_plugins.bridge_runner.optuna_sweeper.OptunaSweeper"
    assert chosen.sampler == OmegaConf.load(path)
    assert re.match(r"# [A-Z].*\.$", path.read_text().splitlines()[0])


def test_the_shell_completes_choices():
    command = str(Path(sys.executable).parent / "bridge-runner")
    line = "bridge-runner host=s"
    done = subprocess.run(
        [command, "-sc", "query=bash"],
        env=os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": "1"},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["host=scanned"]
