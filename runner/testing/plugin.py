"""pytest plugin: the fixture `check_layer` and the marker `bridge_layer`.

pytest imports this file at every start, also where nothing is checked: JAX and the checks come with the first call.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from runner.checks.results.report import CheckReport

FIXTURE, MARKER = "check_layer", "bridge_layer"


class CheckLayer(Protocol):
    """The function that the fixture gives."""

    def __call__(
        self,
        layer: Any,
        x: Any,
        *,
        kwargs: Mapping[str, Any] | None = None,
        allow: Sequence[str] | str = (),
        **options: Any,
    ) -> CheckReport:
        """Runs every check on a layer, and fails the test with the evidence and the fix for each check that fails.

        Args:
          layer: An NNX class or a factory that takes `rngs`, which is wrapped by the bridge; or a Linen module, or its
            class.
          x: Input, an array of the pipeline's shape and dtype.
          kwargs: Arguments of the class; an NNX class gets sizes that follow from x by themselves.
          allow: Names of checks that may fail, or that need not be possible.
          **options: Those of `runner.check`: pipeline, rngs, variables, only, …; a marker gives their defaults.

        Returns:
          The report, e.g. for `assert not report.warned`.
        """


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker."""
    text = f"{MARKER}(**options): defaults of {FIXTURE}'s options, those of runner.check; -m {MARKER} selects its tests"
    config.addinivalue_line("markers", text)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test that uses the fixture, so that `-m 'not bridge_layer'` leaves out what takes seconds."""
    for item in items:
        if FIXTURE in getattr(item, "fixturenames", ()) and item.get_closest_marker(MARKER) is None:
            item.add_marker(MARKER)


@pytest.fixture
def check_layer(request: pytest.FixtureRequest) -> CheckLayer:
    """Runs every check of bridge-runner on a layer: `check_layer(MyLayer, x)`."""
    defaults: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers(MARKER))):  # the closest comes last, and wins
        if marker.args:
            raise pytest.UsageError(f"{MARKER}{marker.args}: options are given by name, as {MARKER}(rngs='params')")
        defaults |= marker.kwargs

    def check(layer: Any, x: Any, **options: Any) -> CheckReport:
        __tracebackhide__ = True  # pytest shows the test's own line
        outcome = _checked(layer, x, **defaults | options)
        if isinstance(outcome, str):
            pytest.fail(outcome)
        return outcome

    return check


def _checked(
    layer: Any,
    x: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    allow: Sequence[str] | str = (),
    **options: Any,
) -> CheckReport | str:
    """The report, or why the test fails."""
    with warnings.catch_warnings():  # libraries that are imported here add filters of their own
        from runner.bridge import wrap
        from runner.checks import registry
        from runner.checks.results.report import CheckFailures, CheckReport, check
        from runner.errors import UserError

        allowed = [allow] if isinstance(allow, str) else list(allow)
        name = getattr(layer, "__name__", None)
        try:
            registry.require_names(allowed, "allow")
            report = check(wrap.as_linen(layer, kwargs or {}, x), x, **{"label": name} | options)
        except UserError as error:
            return str(error)
    judged = CheckReport(report.label, [found for found in report if found.name not in allowed])
    return report if judged.ok else str(CheckFailures(judged))
