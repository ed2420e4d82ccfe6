"""What several test files need: runs composed from conf/, on the CPU."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before anything imports JAX

from collections.abc import Callable

import hydra
import pytest

from runner import settings
from runner.settings import Run


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
