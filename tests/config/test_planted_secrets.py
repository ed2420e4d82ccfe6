"""A token in any string key of conf/ reaches no file: it is redacted, or the config is refused."""

from __future__ import annotations

import os
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from runner.commands import main
from runner.config import conf_folder, schema

TOKEN = "tok-zebra-4711-quux"
PLANTED = "${oc.env:PLANTED_TOKEN}"
LEAN = ["timing=off", "checks=off"]

# Keys whose text may be anything and stays in the settings; a typed one has no room for it.
OPEN = (
    *("layer.rngs", "layer.mutable", "layer.seeded_by", "host.name", "host.layer_name", "input.path"),
    *("pipeline.name", "pipeline.keeps", "pipeline.boxes", "pipeline.axes", "train.optimizer", "train.collections"),
    *("checkpoint.metric", "tracking.tags", "tracking.notes", "search.objective"),
)


def _string_keys() -> list[str]:
    """Keys of conf/ that take text or a list."""
    schema.register()
    with hydra.initialize_config_dir(str(conf_folder.config_dir()), version_base="1.3"):
        config = hydra.compose("config")
    found = []

    def walk(node, prefix: str) -> None:
        for key in node:
            child, name = node._get_node(key), f"{prefix}{key}"
            if OmegaConf.is_dict(child) and not child._is_none():
                walk(child, f"{name}.")
            elif OmegaConf.is_list(child) or type(child).__name__ in ("StringNode", "AnyNode"):
                found.append(name)

    walk(config, "")
    return found


def _override(key: str) -> str:
    lists = ("layer.rngs", "layer.init_rngs", "layer.mutable", "layer.seeded_by", "pipeline.keeps", "pipeline.boxes")
    lists += ("train.collections", "tracking.tags", "mesh.input", "input_shape", "grid.zip", "grid.exclude")
    return f"{key}=[{PLANTED}]" if key in lists else f"{key}={PLANTED}"


def _telling(folder: Path) -> list[str]:
    """Files that hold the token, or are called by it."""
    paths = sorted(folder.rglob("*"))
    named = [str(path) for path in paths if TOKEN in path.name]
    return named + [str(path) for path in paths if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLANTED_TOKEN", TOKEN)
    return tmp_path


def test_token_in_all_open_keys_is_redacted(here):
    keys = [_override(key) for key in OPEN if key != "layer.mutable"]
    assert main.main(["-m", *LEAN, "sweep=mine", "seed=0,1", *keys]) == 0
    assert list(here.glob("outputs/mine/wandb/offline-run-*/*.wandb"))
    assert _telling(here) == []


NAMES = ["output_root", "sweep", "layer.name", "process.compilation_cache"]
NAMES += ["tracking.project", "tracking.entity", "tracking.group", "tracking.wandb_sweep"]


@pytest.mark.sampled
@pytest.mark.parametrize("key", [*NAMES, "hydra.sweep.dir"])
def test_token_in_a_name_is_refused(key, here, capsys):
    assert main.main(["-m", *LEAN, f"{key}={PLANTED}", "seed=0,1"]) == 2
    error = capsys.readouterr().err
    assert f"{key}={PLANTED}: it is a name, which would hold the value of PLANTED_TOKEN" in error
    assert f'Try: {key}="$PLANTED_TOKEN" if it is no secret: the shell puts it in' in error
    assert list(here.iterdir()) == []
    assert TOKEN not in error


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in _string_keys() if key not in (*OPEN, *NAMES)])
def test_token_in_any_other_key_is_refused(key, here):
    assert main.main(["-m", *LEAN, _override(key), f"seed={'0,1' if key != 'seed' else 0}"]) == 2
    assert list(here.iterdir()) == []


def test_all_keys_of_conf_are_planted():
    keys = _string_keys()
    assert {key for key in OPEN if key != "search.objective"} | set(NAMES) <= set(keys)
    assert len(keys) > 40


@pytest.mark.slow
@pytest.mark.parametrize(
    "word",
    ["output_root=${oc.env:SCRATCH}/o", "sweep=of-${oc.env:USER}", "tracking.project=${oc.env:WANDB_PROJECT}"],
)
def test_public_values_may_be_names(word, here, monkeypatch):
    for name, value in {"SCRATCH": str(here / "scratch"), "USER": "ada", "WANDB_PROJECT": "their-project"}.items():
        monkeypatch.setenv(name, value)
    assert main.main([*LEAN, "checkpoint=none", word]) == 0
    (record,) = here.rglob("record.json")
    assert os.path.getsize(record)


def test_token_in_a_followed_run_is_redacted(here):
    words = ["train=short", "train.steps=3", f"tracking.notes={PLANTED}", f"layer.seeded_by=[{PLANTED}]"]
    assert main.main([*LEAN, "checkpoint=none", *words, "sweep=mine"]) == 0
    assert list(here.glob("outputs/mine/wandb/offline-run-*/*.wandb"))
    assert _telling(here) == []


def test_short_tokens_are_redacted(here, monkeypatch):
    monkeypatch.setenv("PLANTED_TOKEN", "q7#")
    assert main.main([*LEAN, "checkpoint=none", f"tracking.notes={PLANTED}", "sweep=mine"]) == 0
    (wandb_file,) = here.glob("outputs/mine/wandb/offline-run-*/*.wandb")
    assert b"q7#" not in wandb_file.read_bytes()
