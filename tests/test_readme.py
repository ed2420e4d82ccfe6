"""README is true: its commands run, in order, in one folder, and its first and last command are what CI calls."""

from __future__ import annotations

import re
from pathlib import Path

import documented_pages
import pytest
from documented_pages import Fence

from runner.config import schema

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = documented_pages.fences(README)
INSTALL, *_, TEST = [line for fence in BLOCKS if fence.language == "bash" for line in documented_pages.commands(fence)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which README's commands were run, but for what installs and what tests."""
    path = tmp_path_factory.mktemp("user")
    documented_pages.run(
        [Fence(fence.language, without_install(fence.text)) for fence in BLOCKS if TEST not in fence.text], path
    )
    return path


def without_install(text: str) -> str:
    return re.sub(r"^(pip install -q pytest\n|python3.*&& (?=bridge-runner))", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("command", [INSTALL, TEST])
def test_ci_calls_readmes_two_lines(command):
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.slow
def test_readme_sweep_leaves_its_files(folder):
    (sweep,) = (folder / "outputs").glob("linear-*")
    runs = list((sweep / "runs").iterdir())
    assert len(runs) == 12
    assert all((run / name).exists() for run in runs for name in ("record.json", "output.npy", "checkpoint", ".hydra"))
    assert len(list((sweep / "wandb").glob("offline-run-*"))) == 13


def test_readme_is_short():
    assert len(README.splitlines()) <= 125


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "outputs/README.md"])
def test_all_links_resolve(name):
    path = ROOT / name
    text = path.read_text()
    for target in [*re.findall(r"\]\((?!https:)([^)#]+)\)", text), *re.findall(r'(?:src|srcset)="([^"]+)"', text)]:
        assert (path.parent / target).exists(), target


def test_readme_counts_the_layers():
    assert f"[{len(set(schema.layer_names()) - {'custom'})} layers]" in README
