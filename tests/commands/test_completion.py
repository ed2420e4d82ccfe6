"""What TAB offers: the completer by itself, and the scripts in the shells that are installed."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from started_processes import Started

from runner.commands import main
from runner.commands.completion import SCRIPTS
from runner.commands.typed.completer import complete
from runner.commands.typed.verb import VERBS
from runner.config import conf_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two sweeps, the first with two runs, as the working directory."""
    for sweep, runs in {"fine": ("0-aa", "1-bb"), "wide": ("0-cc",)}.items():
        for run in runs:
            (tmp_path / "outputs" / sweep / "runs" / run).mkdir(parents=True)
        (tmp_path / "outputs" / sweep / "sweep.json").write_text(json.dumps({}))
    (tmp_path / "mine" / "layer").mkdir(parents=True)
    (tmp_path / "mine" / "layer" / "gated.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


FINE_RUNS = ["outputs/fine/runs/0-aa", "outputs/fine/runs/1-bb"]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("re", ["reload", "report", "rerun", "results", "resume"]),
        ("laye", ["layer="]),
        ("layer=lin", ["layer=linear", "layer=linear_general", "layer=linear_with_metadata", "layer=linen_inside"]),
        ("seed=1 layer=linear,ml", ["layer=linear,mlp"]),
        ("plan layer=ml", ["layer=mlp"]),
        ("--config-dir mine layer=ga", ["layer=gated"]),
        ("-m +exper", ["+experiment="]),
        ("seed=1 experiment", []),
        ("seed=1 +experiment=w", ["+experiment=width"]),
        ("hydra/laun", ["hydra/launcher="]),
        ("hydra/launcher=r", ["hydra/launcher=ray"]),
        ("timing.rou", ["timing.rounds="]),
        ("gri", ["grid."]),
        ("grid.", ["grid.exclude=", "grid.zip="]),
        ("failure.action=", ["failure.action=continue", "failure.action=stop"]),
        ("seed=", []),
        ("--mul", ["--multirun"]),
        ("ls --", ["--by", "--help", "--json", "--watch"]),
        ("sync outputs/fine --", ["--help", "--watch", "--workspace"]),
        ("check --js", ["--json"]),
        ("reload outputs/fine/0 --as ", ["linen", "nnx"]),
        ("export outputs/fine/0 --to s", ["safetensors"]),
        ("help com", ["compare", "completion"]),
        ("completion ", ["bash", "fish", "zsh"]),
        ("resume ", ["outputs/fine", "outputs/wide"]),
        ("resume outputs/fine failure.retry=a", ["failure.retry=all"]),
        ("ls out", ["outputs/fine", "outputs/wide"]),
        ("ls mi", ["mine/"]),
        ("show ", ["outputs/fine/", "outputs/wide/"]),
        ("show outputs/fine/", FINE_RUNS),
        ("show outputs/fine/runs/1", FINE_RUNS[1:]),
        ("report outputs/fine/", []),
        ("verify outputs/fine/", FINE_RUNS),
        ("compare outputs/fine outputs/w", ["outputs/wide"]),
        ("import x --like outputs/fine/", FINE_RUNS),
        ("show /nowhere/", []),
    ],
)  # fmt: skip
def test_the_last_word_is_completed(typed, offered, here):
    assert complete(typed.split(" ")) == offered


def test_empty_input_completes_verbs_and_keys(here):
    offered = complete([""])
    text = (conf_folder.config_dir() / "config.yaml").read_text()
    keys = re.findall(r"^(\w+):(?! *(?:#.*)?$)", text, flags=re.MULTILINE)  # groups of keys are offered with a dot
    assert {*VERBS} <= {*offered}
    assert {f"{key}=" for key in keys if key not in ("defaults", "hydra")} <= {*offered}
    groups = {folder.name for folder in conf_folder.config_dir().iterdir() if folder.is_dir()} - {"hydra"}
    assert groups <= {one.strip("+=") for one in offered}


def test_absolute_paths_are_completed(here):
    assert complete(["report", f"{here}/outputs/f"]) == [f"{here}/outputs/fine"]


def test_completing_imports_neither_jax_nor_hydra(here):
    command = [sys.executable, "-X", "importtime", "-m", "runner", "__complete", "--", "layer=li"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert "layer=linear\n" in done.stdout
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert imported.isdisjoint({"jax", "hydra", "omegaconf", "wandb", "numpy", "rich", "yaml"})


def in_shell(shell: str, script: str) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([shell, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# The words as bash cuts them, and what it would put in the place of the last one.
BASH_WORDS = [
    (["sho"], ["show"]),
    (["layer", "=", "ml"], ["mlp"]),
    (["seed", "=", "1", "layer", "=", "ml"], ["mlp"]),
    (["-m", "hydra/launcher", "="], ["joblib", "ray", "submitit_local", "submitit_slurm"]),
    (["show", "outputs/fine/"], FINE_RUNS),
    (["qqq"], []),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "offered"), BASH_WORDS, ids=[" ".join(words) for words, _ in BASH_WORDS])
def test_bash_completes(words, offered, here):
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""
    eval "$(bridge-runner completion bash)"
    COMP_WORDS=(bridge-runner {quoted}); COMP_CWORD={len(words)}
    _bridge_runner
    ((${{#COMPREPLY[@]}})) && printf '%s\\n' "${{COMPREPLY[@]}}"; true
    """
    assert in_shell("bash", script).split() == offered


def test_bash_knows_the_completion_function():
    said = in_shell("bash", 'eval "$(bridge-runner completion bash)"; complete -p bridge-runner')
    assert said == "complete -o default -F _bridge_runner bridge-runner\n"


# How an interactive shell starts without the user's own settings, and what is typed first.
INTERACTIVE = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'bind "set enable-bracketed-paste off"'),
    "zsh": (
        ["zsh", "-f", "-i"],
        "unset zle_bracketed_paste; unsetopt prompt_cr prompt_sp; autoload -Uz compinit; compinit -u -D;"
        " PROMPT=at_the_pro''mpt",
    ),
}


def pressed_tab(line: str, shell_name: str = "bash", until: str = " ") -> str:
    """What an interactive shell shows after a line and TAB were typed, up to the blank that ends a whole word."""
    ours, theirs = pty.openpty()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "TERM": "dumb", "PS1": ""}
    words, first = INTERACTIVE[shell_name]
    setup = f'{first}; eval "$(bridge-runner completion {shell_name})"; echo rea""dy\n'
    shown, typed, deadline = b"", False, time.monotonic() + 60
    ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with Started(words, **ends, env=environment, start_new_session=True) as shell:
        os.write(ours, setup.encode())
        while time.monotonic() < deadline and not (typed and shown.endswith(until.encode())):
            if select.select([ours], [], [], 0.2)[0]:
                shown += os.read(ours, 4096)
            # zsh drops what is typed before its prompt.
            if not typed and (b"at_the_prompt" if shell_name == "zsh" else b"ready\r\n") in shown:
                shown, typed = b"", True
                os.write(ours, f"{line}\t".encode())
        shell.kill()
    os.close(ours)
    os.close(theirs)
    return shown.decode()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("bridge-runner seed=1,2 layer=linear,ml", "bridge-runner seed=1,2 layer=linear,mlp "),
        ("bridge-runner report outputs/fi", "bridge-runner report outputs/fine "),
    ],
)
def test_tab_in_an_interactive_bash_completes(typed, completed, here):
    assert pressed_tab(typed).endswith(completed)


@pytest.mark.slow
def test_tab_in_an_interactive_zsh_completes(here):
    if shutil.which("zsh") is None and "CI" not in os.environ:
        pytest.skip("zsh is not installed")
    shown = pressed_tab("bridge-runner report outputs/fi", "zsh", until="fine ")
    assert shown.endswith("bridge-runner report outputs/fine ")


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_takes_its_script(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    in_shell(shell, SCRIPTS[shell])


def test_fish_completes(here):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    said = in_shell("fish", f"{SCRIPTS['fish']}\ncomplete -C 'bridge-runner layer=ml'")
    assert said.split() == ["layer=mlp"]


def test_another_shell_is_refused(capsys):
    assert main.main(["completion", "tcsh"]) == 2
    assert "completion: argument bash|zsh|fish: invalid choice: 'tcsh'" in capsys.readouterr().err


def test_hydras_own_completion_still_installs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "hydra_bash_completion" in in_shell("bash", "bridge-runner -sc install=bash")
