"""What several tests of the checks need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flax import nnx

from runner.checks.probes.subject import Subject
from runner.config.settings.run import Run
from runner.experiment import execute
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of


@pytest.fixture
def of_config(make_run: Callable[..., Run]) -> Callable[..., Subject]:
    """The subject of a config, with the wrapped layer known."""

    def make(*overrides: str) -> Subject:
        run = make_run(*overrides)
        return execute.subject(make_draft(run, identity_of(run)), run)

    return make


@pytest.fixture
def any_hash_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names from a set may differ by process, as they do for whoever sets no PYTHONHASHSEED."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)


@pytest.fixture
def placing_nothing() -> Iterator[None]:
    """Flax places no array on devices by itself."""
    with nnx.use_eager_sharding(False):
        yield
