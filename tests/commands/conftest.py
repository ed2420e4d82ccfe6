"""A folder with sweeps, that several files look at."""

from __future__ import annotations

import shutil
import sys

import pytest
from failing_layers import LAYERS
from swept_folder import QUIET

from runner.commands import main


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """A folder with two sweeps: `fine` has four runs that are done, `mixed` one that is done and one that failed."""
    path = tmp_path_factory.mktemp("swept")
    (path / "listed_layers.py").write_text(LAYERS)
    (path / "broken").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(str(path))
        assert main.main(["-m", "seed=0,1", "features=4,8", "sweep=fine", *QUIET]) == 0
        layer = ["layer=custom", "layer.target=listed_layers.Fails", "layer.kwargs.when=broken,whole"]
        assert main.main(["-m", *layer, "sweep=mixed", *QUIET]) == 1
    return path


@pytest.fixture
def swept_here(swept, tmp_path, monkeypatch):
    """A copy of it that a test may change, as the working directory."""
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    sys.modules.pop("listed_layers", None)
    return tmp_path
