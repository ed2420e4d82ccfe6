"""A sweep that ended, for tests of what happens to its folder afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runner.commands import main
from runner.records.paths import SweepFolder


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A folder with a sweep of three runs, `outputs/s`."""
    path = tmp_path_factory.mktemp("ended")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert main.main(["-m", "seed=0,1,2", "sweep=s", "tracking=disabled", "timing=off", "checks=off"]) == 0
    return path


@pytest.fixture
def folder(ended, tmp_path, monkeypatch) -> SweepFolder:
    """A copy of that sweep, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    return SweepFolder(Path("outputs/s"))
