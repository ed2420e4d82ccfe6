"""What a config names by a dotted path."""

from __future__ import annotations

import pytest

from runner.bridge import targets
from runner.errors import LayerError


@pytest.mark.parametrize(
    ("name", "path", "suggestion"),
    [
        ("runner.py", "runner.MyLayer", "mv runner.py my_runner.py, then layer.target=my_runner.MyLayer"),
        ("runner/layers.py", "runner.own.MyLayer", "mv runner my_runner, then layer.target=my_runner.own.MyLayer"),
    ],
)
def test_a_strangers_runner_is_named(name, path, suggestion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(LayerError) as caught:
        targets.import_path(path)
    there = tmp_path / name.partition("/")[0]
    assert caught.value.what == (
        f"layer.target={path}: runner is the name of our package, so {there} can't be imported"
    )
    assert caught.value.suggestion == suggestion


def test_misspelt_runner_paths_suggest_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LayerError) as caught:
        targets.import_path("runner.lod")
    assert caught.value.what == "layer.target=runner.lod: runner has no lod"


@pytest.mark.parametrize("line", ["from runner import MyLayer", "import runner.own"])
def test_a_shadowing_runner_import_is_named(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "runner.py").touch()
    (tmp_path / "importing_layers.py").write_text(line)
    with pytest.raises(LayerError) as caught:
        targets.import_path("importing_layers.MyLayer")
    assert caught.value.what.startswith("layer.target=importing_layers.MyLayer: runner is the name of our package")
    assert caught.value.suggestion == "mv runner.py my_runner.py, then import my_runner instead of runner"
