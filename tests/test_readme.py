"""README is true: its commands run, in order, in one folder, and its first two are what CI calls."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()

LAYERS = """
from flax import nnx


class Gated(nnx.Module):
    def __init__(self, hidden, *, activation=nnx.sigmoid, kernel_init=nnx.initializers.ones, param_dtype=None, rngs):
        dtype = {"param_dtype": param_dtype} if param_dtype else {}
        self.linear = nnx.Linear(4, hidden, kernel_init=kernel_init, rngs=rngs, **dtype)
        self.activation = activation

    def __call__(self, x):
        y = self.linear(x)
        return y * self.activation(y)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


NETS, *EXAMPLES = sorted(blocks("python"), key=lambda code: not code.startswith("# nets.py"))

# `diff` says by its exit code that the trees differ.
EXIT_CODES = {"bridge-runner diff 'nets:CNN()@old' 'nets:CNN(migrated=True)' --input '[1,28,28,1]'": 1}

INSTALL, TEST, *OTHERS = [line for block in blocks("bash") for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: a layer, a config folder, and the first command's sweep."""
    path = tmp_path_factory.mktemp("user")
    (path / "my_layers.py").write_text(LAYERS)
    (path / "my_conf" / "layer").mkdir(parents=True)
    (path / "my_conf" / "layer" / "gated.yaml").write_text(blocks("yaml")[0])
    (path / "nets.py").write_text(NETS)
    shell(INSTALL.rpartition("&& .venv/bin/")[2], path)
    return path


def shell(command: str, folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == EXIT_CODES.get(command, 0), done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("command", [INSTALL, TEST])
def test_ci_calls_readmes_two_lines(command):
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("command", OTHERS)
def test_a_command_of_the_readme_runs(command, folder):
    assert shell(command, folder) != ""


@pytest.mark.slow
@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: code.splitlines()[0])
def test_readme_python_examples_run(code, folder):
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=120, capture_output=True)


def test_first_readme_sweep_leaves_its_files(folder):
    (sweep,) = (
        path for path in (folder / "outputs").iterdir() if (path / "sweep.json").exists() and "linear" in path.name
    )
    runs = list((sweep / "runs").iterdir())
    assert len(runs) == 12
    assert all((run / name).exists() for run in runs for name in ("record.json", "output.npy", "checkpoint", ".hydra"))
    assert len(list((sweep / "wandb").glob("offline-run-*"))) == 13


def test_readme_table_matches_a_real_sweep(folder):
    (sweep,) = (folder / "outputs").glob("linear-*")
    assert f"{sweep.name}: 12 runs · 4 programs" in README
    names = {path.name for path in (sweep / "runs").iterdir()}
    assert set(re.findall(r"^(\d+-[0-9a-f]{8}) ", README, flags=re.MULTILINE)) <= names


@pytest.mark.slow
def test_readme_shows_the_diff_output(folder):
    (command,) = EXIT_CODES
    said = shell(command, folder)
    (shown,) = re.findall(r"^```\n(moved.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    for line in shown.splitlines():
        assert line == "…" or line in said


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "outputs/README.md"])
def test_all_links_resolve(name):
    path = ROOT / name
    for target in re.findall(r"\]\((?!https:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_readme_counts_the_layers():
    files = {path.stem for path in (ROOT / "conf" / "layer").glob("*.yaml")} - {"custom"}
    assert f"{len(files)} layers are included" in README
