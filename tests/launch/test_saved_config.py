"""The config.yaml that is saved with a run, given back by Hydra's flags: that config runs, within our settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.commands import main

QUIET = ("timing=off", "checks=off", "checkpoint=none", "tracking=disabled")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def saved(here, capsys) -> Path:
    """The `.hydra` folder of a run that is not one of the defaults."""
    folder = Path("theirs", ".hydra")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(printed(capsys, "seed=3", "features=5", "layer.kwargs.use_bias=false", *QUIET))
    return folder


def printed(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main.main([*words, "--cfg", "job"]) == 0
    return str(capsys.readouterr().out)


@pytest.mark.parametrize(
    "flags",
    [
        ["--config-path", "{}", "--config-name", "config"],
        ["--config-path={}"],
        ["-cd", "{}", "-cn=config"],
        ["--config-dir={}", "--config-name", "config.yaml"],
    ],
)
def test_flags_choose_a_saved_config(flags, saved, capsys):
    assert printed(capsys, *(word.format(saved) for word in flags)) == (saved / "config.yaml").read_text()


@pytest.mark.slow
def test_a_saved_config_runs_again(here, capsys):
    words = ["seed=3", "features=5", "layer.kwargs.use_bias=false", "sweep=first", *QUIET]
    assert main.main(words) == 0
    (run,) = Path("outputs/first/runs").iterdir()
    assert main.main(["output_root=again", f"--config-path={run}/.hydra", "--config-name=config"]) == 0
    (again,) = Path("again").glob("*/runs/*")
    assert again.name == run.name and again.parts[1] != "first"
    assert sorted(path.name for path in here.iterdir()) == ["again", "outputs"]
    assert main.main(["resume", str(again.parents[1])]) == 2
    assert "--config-path" in (said := capsys.readouterr().err) and "Try: the same with --trust" in said
    assert main.main(["resume", str(again.parents[1]), "--trust"]) == 0


def test_a_saved_config_is_swept(saved, capsys):
    capsys.readouterr()
    assert main.main(["plan", f"--config-path={saved}", "features=5,6"]) == 0
    said = capsys.readouterr().out.splitlines()[:2]  # the others repeat what was typed
    assert main.main(["plan", "seed=3", "features=5,6", "layer.kwargs.use_bias=false", *QUIET]) == 0
    assert said == capsys.readouterr().out.splitlines()[:2]


def test_a_saved_config_has_no_choices(saved, capsys):
    assert main.main(["plan", f"--config-path={saved}", "timing=quick"]) == 2
    assert (
        "timing: this config, a saved one, has no choice to replace.\n  Try: +timing=quick\n" in capsys.readouterr().err
    )
    assert main.main(["plan", f"--config-path={saved}", "+timing=quick"]) == 0


def test_a_hidden_config_is_refused(here, capsys):
    mine = here / "mine"
    mine.mkdir()
    text = "defaults: [config, _self_]\nseed: 7\n"
    (mine / "config.yaml").write_text(text)
    assert main.main(["plan", "--config-dir", "mine", "--config-name", "config"]) == 2
    err = capsys.readouterr().err
    assert "mine/config.yaml: bridge-runner's own config of this name comes first" in err
    (mine / "my_config.yaml").write_text(text)
    assert "seed: 7\n" in printed(capsys, "--config-dir", "mine", "--config-name", "my_config")


def test_an_unreadable_saved_config_is_named(saved, capsys):
    (saved / "config.yaml").write_text("seed: [")
    assert main.main(["plan", f"--config-path={saved}"]) == 2
    err = capsys.readouterr().err
    assert str(saved / "config.yaml") in err and "Traceback" not in err
