"""What several test files need: runs composed from conf/, on the CPU."""
# ruff: noqa: E402 - JAX reads its variables when it is imported

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile

# A shell's background process ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of processes of the tests import the same files: let them be compiled once.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# One cache for all workers and all processes that they start: dozens of tests compile the same few programs.
CONTROLS = "PYTEST_XDIST_WORKER" not in os.environ
if CONTROLS:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Tests of one worker don't wait for those of the others, or for sweeps of whoever else is on this machine.
os.environ["BRIDGE_RUNNER_LOCKS"] = tempfile.mkdtemp(prefix="locks-")

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import hydra
import jax
import pytest
from composed_once import composed_once
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from started_processes import end_started
from wandb_sent import FOREIGN, environment, execute, write_netrc
from wandb_server import WandbServer, serve

from runner.commands import main
from runner.config import conf_folder, schema
from runner.config.composing.compose import Composer
from runner.config.settings.run import Run
from runner.tracking import wandb_server

# Quick to give up: a user's own settings win over ours.
IMPATIENT = {
    "RETRY_MAX": "1",
    "RETRY_WAIT_MIN_SECONDS": "0.05",
    "RETRY_WAIT_MAX_SECONDS": "0.1",
    "TIMEOUT_SECONDS": "5",
}
SETTINGS = {
    f"WANDB_X_{kind}_{name}": value
    for kind in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    for name, value in IMPATIENT.items()
}


def pytest_configure(config: pytest.Config) -> None:
    """Most programs of the default suite run once: XLA need not optimise them. In all other suites it does."""
    if "not slow" in config.option.markexpr:
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def pytest_collection_finish() -> None:
    """What is imported stays: the garbage collector need not look at it again, nor look as often as by default."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["BRIDGE_RUNNER_LOCKS"], ignore_errors=True)
    if CONTROLS:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True)
def started_processes_end() -> Iterator[None]:
    """Whatever a test starts ends with it."""
    yield
    end_started()


@pytest.fixture(scope="session", autouse=True)
def equal_configs_composed_once() -> Iterator[None]:
    with composed_once():
        yield


@pytest.fixture(scope="session", autouse=True)
def tracers_have_no_sharding_at_once() -> Iterator[None]:
    """NNX asks each tracer that it counts draws with; JAX looks for where it comes from, an eighth of all tracing."""

    def sharding(tracer: jax.core.Tracer) -> None:
        raise AttributeError(f"The 'sharding' attribute is not available on {type(tracer).__name__}.")

    with mock.patch.object(jax.core.Tracer, "sharding", property(sharding)):
        yield


@pytest.fixture
def without_cache() -> Iterator[None]:
    """JAX without its persistent compilation cache, as it comes."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the test works."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    """The `Run` of conf/ with these overrides, as a sweep composes it: with Hydra once for each choice of groups."""
    schema.register()
    with hydra.initialize_config_dir(str(conf_folder.config_dir()), version_base="1.3"):
        composer = Composer(GlobalHydra.instance().config_loader(), "config")

    def make(*overrides: str) -> Run:
        known = HydraConfig.instance().cfg
        try:
            return schema.from_config(composer.task_config(overrides))
        finally:
            HydraConfig.instance().cfg = known

    return make


@pytest.fixture(scope="session")
def offline_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of four runs that was tracked offline, by a user who has keys and no server."""
    folder = tmp_path_factory.mktemp("offline")
    known = environment(folder / "home", "http://127.0.0.1:9")
    write_netrc(folder / "home", 9)
    done = execute(folder, "runner", "-m", "seed=0,1", "features=8,16", environment=known)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "said.txt").write_text(done.stdout)
    (sweep,) = (folder / "outputs").glob("linear-*")
    return sweep


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """A server that this process is logged in to."""
    with serve() as running:
        known = environment(tmp_path / "home", running.url) | SETTINGS
        for name in os.environ:
            if name.startswith(FOREIGN):
                monkeypatch.delenv(name)
        for name, value in known.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(wandb_server, "ASK_AGAIN_S", (0.05,))
        yield running


@pytest.fixture
def sweep(offline_sweep: Path, tmp_path: Path) -> Path:
    """A sweep of four runs, and so of five W&B runs, that nothing was sent of."""
    return Path(shutil.copytree(offline_sweep, tmp_path / offline_sweep.name))


@pytest.fixture
def sync(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main.main(["sync", *map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


# How many cases of a test marked `sampled` the default suite has; the rest are slow.
SAMPLE = 3

# Files that take long, those whose slow tests take minutes first: no worker is left with one of them at the end.
LONG = (
    "report/test_matrix.py",
    "test_docs.py",
    "test_readme.py",
    "launch/test_search_crash.py",
    "commands/test_migrations.py",
    "tracking/test_wandb_tracker.py",
    "sweep/test_crash.py",
    "checks/test_faults.py",
    "sweep/test_execute.py",
    "sweep/test_faults.py",
    "experiment/test_training.py",
    "checks/test_third_party.py",
    "commands/test_export.py",
    "tracking/test_online.py",
    "checks/test_trained.py",
    "sweep/test_many_kills.py",
    "report/test_browser.py",
    "config/test_compose.py",
    "sweep/test_followers.py",
    "test_install.py",
    "checks/test_lifts.py",
    "arrays/test_mesh.py",
    "commands/test_kept_values.py",
    "commands/test_sync.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    for item in items:
        if item.get_closest_marker("sampled"):
            name = item.nodeid.partition("[")[0]
            seen[name] += 1
            if seen[name] > SAMPLE:
                item.add_marker(pytest.mark.slow)
    places = {str(Path(__file__).parent / file): place for place, file in enumerate(LONG)}
    items.sort(key=lambda item: places.get(str(item.path), len(LONG)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=200, help="how often small sweeps are killed while they write")
    parser.addoption("--crash-rounds", type=int, default=20, help="how often a sweep is killed until it is done")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "crash_round" in metafunc.fixturenames:
        metafunc.parametrize("crash_round", range(metafunc.config.getoption("--crash-rounds")))
