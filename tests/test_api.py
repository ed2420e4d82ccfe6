"""What `import runner` gives: its names, their help, and nothing that takes long to import."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import runner
from runner.sweep import plan


def test_importing_runner_does_not_import_jax():
    code = "import runner, sys; dir(runner); runner.UserError; assert 'jax' not in sys.modules; runner.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "AttributeError: module 'runner' has no attribute 'nothing'" in done.stderr


def test_dir_lists_exactly_the_public_names():
    assert [name for name in dir(runner) if not name.startswith("_")] == runner.__all__ == sorted(runner.__all__)


@pytest.mark.parametrize("name", runner.__all__)
def test_every_public_name_is_documented(name):
    assert inspect.getdoc(getattr(runner, name))
    assert f"{name}(" in runner.__doc__ or name in runner.__doc__


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("check", ["check(", "mutable:", "[batch, …, features]", "in seconds", "Raises:", "LayerError:", "UserError:"]),
        ("sweep", ["sweep(", "input_shape:", "Shape of x", "in seconds", "Raises:", "UserError:"]),
        ("reload", ["reload(", "sharding:", "Raises:", "UserError:"]),
        ("load", ["load(", "Raises:", "UserError:"]),
        ("execute", ["execute("]),
        ("nnx_inside_linen", ["nnx_inside_linen("]),
    ],
)
def test_help_shows_arguments_units_and_errors(name, said):
    text = pydoc.plain(pydoc.render_doc(getattr(runner, name)))
    assert [word for word in said if word not in text] == []
    assert "**options" not in text


@pytest.mark.slow
def test_sweep_stays_a_function():
    assert plan.__name__ == "runner.sweep.plan"
    assert inspect.isfunction(runner.sweep)
    code = "import runner.sweep.plan, runner; from runner.sweep import execute; assert callable(runner.sweep)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_package_is_marked_as_typed():
    assert (Path(runner.__file__).parent / "py.typed").exists()
