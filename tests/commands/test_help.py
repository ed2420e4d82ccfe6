"""`VERB --help`: a page for every verb, without JAX and in less than half the time that JAX takes to import."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from command_line import run

from runner.commands.typed import verb
from runner.commands.typed.verb import VERBS


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_a_complete_page(name, capsys):
    code, page, err = run(capsys, name, "--help")
    assert (code, err) == (0, "")
    assert page.partition("\n\n")[0] == f"usage: {verb.load(name).usage_line}"
    assert page.split("\n\n")[1] == verb.load(name).summary
    assert "\n".join(["examples:", f"  bridge-runner {name}"]) in page
    assert "-h, --help" in page
    assert "\nexit codes:\n  0    " in page
    assert "  2    what was typed can't be done; nothing was run\n" in page
    assert run(capsys, name, "-h") == run(capsys, "help", name) == run(capsys, "--help", name) == (0, page, "")


def test_help_survives_the_exit_hook_of_wandb(capsys, monkeypatch):
    from wandb.sdk.lib.exit_hooks import ExitHooks

    for name in ("exit", "excepthook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # put back at the end
    ExitHooks().hook()
    code, page, err = run(capsys, "show", "--help")
    assert (code, page[:6], err) == (0, "usage:", "")


@pytest.mark.parametrize("name", VERBS)
def test_examples_on_help_pages_parse(name):
    one = verb.load(name)
    for example in one.examples:
        typed_name, *words = shlex.split(example)
        assert typed_name == name
        one.parse([word for word in words if word not in (">", "~/.config/fish/completions/bridge-runner.fish")])
    flags = set(re.findall(r"--[\w-]+", one.usage))
    assert flags <= one.parser().value_counts().keys()


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_in_the_overview(name, capsys):
    _, page, _ = run(capsys, "help")
    assert f"\n  bridge-runner {name} " in page
    assert run(capsys, "--help") == run(capsys, "-h") == (0, page, "")


def test_help_suggests_the_nearest_verb(capsys):
    code, _, err = run(capsys, "help", "reprot")
    assert code == 2
    assert err == (f"error: reprot: no such command; there are {', '.join(VERBS)}.\n  Try: bridge-runner help report\n")


def test_unknown_verbs_suggest_the_overview(capsys):
    assert run(capsys, "help", "qqqqq")[2].endswith("\n  Try: bridge-runner help\n")


@pytest.mark.parametrize(("words", "same"), [("--json ls", "ls --json"), ("--by seed ls", "ls --by seed")])
def test_flags_may_stand_before_the_verb(words, same, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *words.split()) == run(capsys, *same.split())
    assert run(capsys, *words.split())[0] == 2


@pytest.mark.slow
def test_multirun_may_stand_before_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "-m", "plan", "seed=0,1", "sweep=new")
    assert (code, out.splitlines()[0]) == (0, "new: 2 runs · 1 program")


def test_flag_values_are_not_verbs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report").mkdir()
    code, out, _ = run(capsys, "--config-dir", "report", "--cfg", "job")
    assert (code, out.splitlines()[0]) == (0, "seed: 0")


@pytest.mark.sampled
@pytest.mark.parametrize("name", VERBS)
def test_help_imports_no_heavy_packages(name):
    command = [sys.executable, "-X", "importtime", "-m", "runner", name, "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert "runner.commands.typed.verb" in imported
    assert imported.isdisjoint({"jax", "flax", "orbax", "hydra", "omegaconf", "wandb", "numpy", "pyarrow", "rich"})
