"""What several test files need: runs composed from conf/, on the CPU."""
# ruff: noqa: E402 - JAX reads its variables when it is imported

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# One cache for all workers and all processes that they start: dozens of tests compile the same few programs.
CONTROLS = "PYTEST_XDIST_WORKER" not in os.environ
if CONTROLS:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Tests of one worker don't wait for those of the others, or for sweeps of whoever else is on this machine.
os.environ["BRIDGE_RUNNER_LOCKS"] = tempfile.mkdtemp(prefix="locks-")

import shutil
from collections.abc import Callable, Iterator

import hydra
import jax
import pytest

from runner import settings
from runner.settings import Run


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["BRIDGE_RUNNER_LOCKS"], ignore_errors=True)
    if CONTROLS:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture
def without_cache() -> Iterator[None]:
    """JAX without its persistent compilation cache, as it comes."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    """The `Run` of conf/ with these overrides, as the command line would compose it."""

    def make(*overrides: str) -> Run:
        settings.register()
        with hydra.initialize_config_dir(str(settings.config_dir()), version_base="1.3"):
            return settings.from_config(hydra.compose("config", list(overrides)))

    return make


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crash-rounds", type=int, default=20, help="how often a sweep is killed until it is done")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "crash_round" in metafunc.fixturenames:
        metafunc.parametrize("crash_round", range(metafunc.config.getoption("--crash-rounds")))
