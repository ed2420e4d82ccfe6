"""Kept sources are imported in place of what is on the path."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback

import pytest

from runner.report.compare import kept_modules


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Two kept modules: one whose file is another one now, one whose package is gone."""
    (tmp_path / "kept_alone.py").write_text("where = 'here'\n")
    (tmp_path / "kept_helper.py").write_text("where = 'here'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    texts = {
        "kept_alone": "import kept_helper\nwhere = 'kept'\n",
        "kept_gone.inner.layers": "from .maths import two\ndef fail():\n    return two / 0\n",
        "kept_gone.inner.maths": "two = 2\n",
    }
    kept_modules.install(texts, str(tmp_path / "nowhere"))
    yield texts
    for name in [name for name in sys.modules if name.startswith("kept_") and name != "kept_modules"]:
        del sys.modules[name]


def test_kept_sources_come_before_files(installed):
    module = importlib.import_module("kept_alone")
    assert (module.where, module.kept_helper.where) == ("kept", "here")
    assert inspect.getsource(module) == installed["kept_alone"]


def test_lost_packages_need_no_files(installed):
    module = importlib.import_module("kept_gone.inner.layers")
    assert inspect.getsource(module) == installed["kept_gone.inner.layers"]
    with pytest.raises(ZeroDivisionError) as raised:
        module.fail()
    assert "return two / 0" in "".join(traceback.format_exception(raised.value))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("kept_gone.inner.other")
