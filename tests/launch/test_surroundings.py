"""What a sweep makes of the settings that surround it: W&B's variables, and Hydra's own keys."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from runner.commands import main
from runner.config import conf_folder
from runner.launch import hydra_settings

BARE = ("timing=off", "checks=off", "checkpoint=none")
QUIET = (*BARE, "tracking=disabled")


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


def test_a_file_names_the_sweeps_folder(here):
    (here / "mine" / "place").mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  sweep:\n    dir: there/named\n"
    (here / "mine" / "place" / "far.yaml").write_text(text)
    words = ["--config-dir", "mine", "-m", "+place=far", "seed=0,1", *QUIET]
    assert main.main(words) == 0
    assert len(list((here / "there" / "named" / "runs").iterdir())) == 2
    assert not (here / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.job.chdir=true"], "hydra.job.chdir=true: the runs of a sweep share one process"),
        (["-m", "seed=0,1", "hydra.job.chdir=true"], "hydra.job.chdir=true: the runs of a sweep share one process"),
        (["-m", "seed=0,1", "hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: a run's folder is named after its number"),
        (["-m", "seed=0,1", "hydra.output_subdir=x"], "hydra.output_subdir=x: each run has its .hydra in its own"),
        (
            ["-m", "seed=0,1", "features=4,8", "grid.zip=[[seed,features]]", "hydra/sweeper=basic"],
            "basic is a sweeper that knows no grid",
        ),
    ],
)
def test_settings_without_meaning_are_refused(words, said, here, capsys):
    assert main.main([*words, *QUIET]) == 2
    err = capsys.readouterr().err
    assert said in err and "\n  Try: " in err
    assert "Traceback" not in err
    assert list(here.rglob("sweep.json")) == []


@pytest.mark.parametrize("words", [["hydra.run.dir=FILE"], ["hydra.run.dir=FILE/in"], ["-m", "hydra.sweep.dir=FILE"]])
def test_a_file_is_no_folder_of_runs(words, here, capsys):
    (here / "FILE").write_text("mine")
    others = ["hydra/sweeper=basic"] if "-m" in words else []
    assert main.main([*words, *others, *QUIET]) == 2
    said = f"error: output folder {words[-1].partition('=')[2]}: a file is in its place.\n  Try: the same without it"
    assert capsys.readouterr().err.startswith(said)
    assert [path.name for path in here.iterdir()] == ["FILE"]


@pytest.mark.slow
def test_another_sweeper_honours_the_sweeps_name(here, capsys):
    words = ["-m", "seed=0,1", "hydra/sweeper=basic", "sweep=mine", *QUIET]
    assert main.main(words) == 0
    folder = here / "outputs" / "mine" / "batch-0"
    removed, kept = sorted((folder / "runs").iterdir())
    shutil.rmtree(removed)
    for again in (["resume", str(folder)], words):
        capsys.readouterr()
        assert main.main(again) == 0
        assert capsys.readouterr().out.startswith("batch-0: 2 runs · 1 program · ")
        assert sorted((folder / "runs").iterdir()) == [removed, kept]
    assert list(here.rglob("sweep.json")) == [folder / "sweep.json"]


@pytest.mark.slow
def test_resume_names_and_finds_batches(here, capsys):
    words = ["-m", "seed=0,1,2", "hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2", "sweep=mine", *QUIET]
    assert main.main(words) == 0
    first, second = (Path("outputs/mine") / name for name in ("batch-0", "batch-2"))
    capsys.readouterr()
    for verb in ("resume", "results"):
        assert main.main([verb, "outputs/mine"]) == 2
        assert capsys.readouterr().err == (
            f"error: outputs/mine is no sweep: it has no sweep.json, and these have one: {first}, {second}.\n"
            f"  Try: {first}\n"
        )
    assert main.main(["report", "outputs/mine"]) == 0  # an index of both
    assert capsys.readouterr().out.startswith("outputs/mine/index.html: 2 sweeps")
    runs = [*(first / "runs").iterdir(), *(second / "runs").iterdir()]
    for folder in (first, second):  # either does what is missing of all
        for run in runs:
            shutil.rmtree(run)
        assert main.main(["resume", str(folder)]) == 0
        assert all((run / "record.json").exists() for run in runs)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("sweep", "sweep=a-${oc.env:PLANTED}: it is a name, which would hold the value of PLANTED"),
        ("output_root", "output_root=a-${oc.env:PLANTED}: it is a name, which would hold the value of PLANTED"),
        ("hydra.sweep.dir", "hydra.sweep.dir=a-${oc.env:PLANTED}: it is a name, which would hold the value of PLANTED"),
        ("sweep", "sweep=${oc.env:PLANTED}: the environment variable PLANTED is not set"),
    ],
)
def test_another_sweeper_makes_no_secret_folder(key, said, here, capsys, monkeypatch):
    if "not set" not in said:
        monkeypatch.setenv("PLANTED", "a-long-token")
    words = ["-m", "seed=0,1", "hydra/sweeper=basic", f"{key}=a-${{oc.env:PLANTED}}"]
    assert main.main(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "not set" in said or f'Try: {key}="a-${{PLANTED}}" if it is no secret' in err
    assert list(here.iterdir()) == []


def test_conf_names_no_sweep_folder():
    conf = OmegaConf.load(conf_folder.config_dir() / "config.yaml").hydra.sweep
    assert OmegaConf.to_container(conf, resolve=False) == {
        "dir": hydra_settings.OWN_SWEEP_DIR,
        "subdir": hydra_settings.OWN_SUBDIR,
    }
