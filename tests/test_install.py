"""A wheel that is built here and installed elsewhere runs the same sweep, and an unpacked sdist can test itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from other_python import other_python

ROOT = Path(__file__).resolve().parent.parent
BUNDLES = "runner/report/html/assets"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder of an unpacked sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    build = f"import hatchling.build; hatchling.build.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, timeout=120)
    (path,) = folder.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder / path.name.removesuffix(".tar.gz")


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


def test_wheel_contains_config_and_plugins(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"runner/conf/config.yaml", "runner/conf/layer/linear.yaml", "runner/conf/experiment/width.yaml"} <= names
    assert "runner/py.typed" in names
    assert {"hydra_plugins/bridge_runner/sweeper.py", "hydra_plugins/bridge_runner/launcher.py"} <= names
    assert not any(name.startswith(("conf/", "tests/", "runner/launch/plugins")) for name in names)
    assert "hydra_plugins/__init__.py" not in names


def test_wheel_contains_report_assets_and_licences(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    parts = {str(path.relative_to(ROOT)) for path in (ROOT / BUNDLES).rglob("*") if path.is_file()}
    assert f"{BUNDLES}/vendor/d3.min.js" in parts
    assert parts <= names


def test_wheel_metadata_lists_licences_and_pythons(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = HeaderParser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    licences = {path.relative_to(ROOT).as_posix() for path in (ROOT / BUNDLES / "vendor").glob("*.LICENSE")}
    assert set(metadata.get_all("License-File")) == {"LICENSE"} | licences
    assert metadata["Author"] == "bridge-runner authors"
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert metadata.get_all("Classifier") == wanted


def test_the_wheel_elsewhere_runs_a_sweep(elsewhere):
    command = [elsewhere / "venv" / "bin" / "python", "-m", "runner", "-m", "seed=0,1", "features=8,32"]
    done = subprocess.run(command, cwd=elsewhere, check=False, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 runs done" in done.stdout
    assert len(list(elsewhere.glob("outputs/*/runs/*/checkpoint"))) == 4
    assert len(list(elsewhere.glob("outputs/*/report.html"))) == 1


def test_wheel_is_imported_outside_the_checkout(elsewhere):
    command = [elsewhere / "venv" / "bin" / "python", "-c", "import runner; print(runner.__file__)"]
    done = subprocess.run(command, cwd=elsewhere, check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.startswith(str(elsewhere))


def test_the_wheel_is_a_pytest_plugin(elsewhere):
    folder = elsewhere / "theirs"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -W error\n")
    (folder / "test_theirs.py").write_text("""
import flax.nnx
import jax.numpy as jnp


def test_linear(check_layer):
    check_layer(flax.nnx.Linear, jnp.ones((2, 4)), only=["streams"])
""")
    command = [elsewhere / "venv" / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    outcomes = []
    for words in [], ["-p", "no:bridge_runner"]:
        done = subprocess.run([*command, *words], cwd=folder, env=kept, timeout=200, capture_output=True, check=False)
        outcomes.append((done.returncode, done.stdout.splitlines()[-1].partition(b" in ")[0]))
    assert outcomes == [(0, b"1 passed"), (1, b"1 error")]


def test_pip_of_an_older_python_refuses_the_wheel(wheel, tmp_path):
    python = other_python("3.10")
    if python is None:
        pytest.skip("Python 3.10 is not on this machine")
    command = [python, "-m", "pip", "install", "--no-index", "--no-deps", "--target", tmp_path / "there", wheel]
    done = subprocess.run(command, check=False, timeout=100, capture_output=True, text=True)
    assert done.returncode == 1
    assert "requires a different Python: 3.10." in done.stderr and "not in '>=3.11'" in done.stderr


def test_sdist_contains_every_tracked_file(unpacked):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert set(listed.stdout.splitlines()) <= names
    assert names <= {*listed.stdout.splitlines(), "PKG-INFO"}


def test_sdist_can_run_its_tests(unpacked):
    # All tests are collected, and an error there fails too.
    assert re.search(r"\d\d passed", pytest_in(unpacked, "-k", "test_packages or test_readme or test_columns"))


def pytest_in(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "JAX_"))}
    done = subprocess.run(command, cwd=folder, env=kept, check=False, timeout=500, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout.splitlines()[-1]
