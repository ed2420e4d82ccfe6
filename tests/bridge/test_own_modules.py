"""The user's own modules that a layer comes from: by import, and none that is installed."""

from __future__ import annotations

import importlib
import sys

import pytest

from runner.bridge import own_modules, targets

FILES = {
    "own_layers.py": "import json\nimport numpy, runner.errors\nfrom own_package import maths\nclass Layer: pass\n",
    "own_package/__init__.py": "NAME = 'own'\n",
    "own_package/maths.py": "from .deeper import one\ntry:\n    import own_optional\nexcept ImportError:\n    pass\n",
    "own_package/deeper.py": "one = 1\n",
    "own_optional.py": "two = 2\n",
    "own_stranger.py": "three = 3\n",
}


@pytest.fixture
def layers(tmp_path, monkeypatch):
    """A module of the user's that imports others of his, beside one that it does not import."""
    (tmp_path / "own_package").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    importlib.import_module("own_stranger")
    yield importlib.import_module("own_layers")
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]
    targets.source_digest.cache_clear()


def test_imported_own_modules_are_found(layers):
    found = own_modules.closure([layers])
    assert sorted(found) == ["own_layers", "own_optional", "own_package", "own_package.deeper", "own_package.maths"]
    assert found["own_package.deeper"] == "one = 1\n"
    assert sorted(own_modules.helpers(layers)) == sorted(set(found) - {"own_layers"})


def test_an_edited_helper_changes_the_digest(layers, tmp_path):
    first = targets.source_digest("own_layers.Layer")
    for name in ("own_package/deeper.py", "own_stranger.py"):
        (tmp_path / name).write_text(f"{FILES[name]}# edited\n")
        targets.source_digest.cache_clear()
        second, first = first, targets.source_digest("own_layers.Layer")
        assert (first != second) == (name != "own_stranger.py")


def test_an_edited_partial_changes_the_digest(layers, tmp_path):
    text = "import functools\nfrom flax import nnx\nLayer = functools.partial(nnx.Linear, use_bias=False)\n"
    (tmp_path / "own_bound.py").write_text(text)
    first = targets.source_digest("own_bound.Layer")
    (tmp_path / "own_bound.py").write_text(text.replace("False", "True"))
    targets.source_digest.cache_clear()
    assert first not in (None, targets.source_digest("own_bound.Layer"))


def test_layers_of_ours_have_no_own_modules():
    module = importlib.import_module("runner.bridge.layers.blocks")
    assert own_modules.closure([module]) == own_modules.helpers(module) == {}
