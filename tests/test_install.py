"""A wheel that is built here and installed elsewhere runs the same sweep."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """A virtual environment that has the wheel, and this one's packages for its dependencies."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    packages = Path(pytest.__file__).resolve().parent.parent
    # Behind the wheel's own folder, without the .pth files that lead to this checkout.
    (site / "dependencies.pth").write_text(f"{packages}\n")
    return folder


def test_the_wheel_has_the_config_and_the_plugins_where_they_are_looked_for(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"runner/conf/config.yaml", "runner/conf/layer/linear.yaml", "runner/conf/experiment/width.yaml"} <= names
    assert "runner/py.typed" in names
    assert {"hydra_plugins/bridge_runner/sweeper.py", "hydra_plugins/bridge_runner/launcher.py"} <= names
    assert not any(name.startswith(("conf/", "tests/", "runner/launch/plugins")) for name in names)
    assert "hydra_plugins/__init__.py" not in names


def test_the_wheel_has_the_reports_parts_and_the_licences_of_its_bundles(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    parts = ROOT / "runner" / "report_parts"
    assert {f"runner/{path.relative_to(parts.parent)}" for path in parts.rglob("*") if path.is_file()} <= names
    assert "runner/report_parts/vendor/d3.LICENSE" in names


def test_the_wheel_elsewhere_runs_a_sweep(elsewhere):
    command = [elsewhere / "venv" / "bin" / "python", "-m", "runner", "-m", "seed=0,1", "features=8,32"]
    done = subprocess.run(command, cwd=elsewhere, check=False, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 runs done" in done.stdout
    assert len(list(elsewhere.glob("outputs/*/runs/*/checkpoint"))) == 4
    assert len(list(elsewhere.glob("outputs/*/report.html"))) == 1


def test_the_wheel_elsewhere_is_not_this_checkout(elsewhere):
    command = [elsewhere / "venv" / "bin" / "python", "-c", "import runner; print(runner.__file__)"]
    done = subprocess.run(command, cwd=elsewhere, check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.startswith(str(elsewhere))
