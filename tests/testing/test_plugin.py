"""The pytest plugin in a user's project: what a fault and a healthy layer give, and what its start costs."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent.parent
PLUGIN = "runner.testing.plugin"
INSTALLED = any(point.value == PLUGIN for point in importlib.metadata.entry_points(group="pytest11"))
START = [] if INSTALLED else ["-p", PLUGIN]

PROJECT = """
import jax.numpy as jnp
import pytest
from flax import nnx
from flax import linen as nn
from flax.nnx import bridge

X = jnp.ones((2, 4))
ONLY = ["streams"]


class Gated(nnx.Module):
    def __init__(self, in_features, out_features, rate=0.0, *, rngs):
        self.linear = nnx.Linear(in_features, out_features, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.linear(x))
"""


@pytest.fixture
def project(pytester):
    """Runs pytest on a user's tests, in this process, with warnings as errors."""

    def run(tests: str, *words: str) -> pytest.RunResult:
        pytester.makepyfile(test_layers=PROJECT + tests)
        return pytester.runpytest_inprocess(*START, "-p", "no:xdist", "-p", "no:cacheprovider", "-W", "error", *words)

    return run


def test_a_faulty_layer_fails_with_its_fix(project):
    result = project("""
def test_gated(check_layer):
    check_layer(Gated, X, kwargs={"rate": 0.5}, rngs="params", only=ONLY)
""")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert '>       check_layer(Gated, X, kwargs={"rate": 0.5}, rngs="params", only=ONLY)' in text.replace("    >", ">")
    result.stdout.fnmatch_lines(
        [
            "E       Failed: 1 of 1 check failed: Gated",
            "E       streams: apply needs the stream dropout and is not given it",
            "E         evidence  given = *",
            "E         fix  variables = model.init(*",
            "E              output = model.apply(variables, x, rngs={'dropout': k3})",
        ]
    )
    assert "runner/testing/plugin.py" not in text


def test_healthy_layers_pass_however_given(project):
    result = project("""
@pytest.mark.parametrize("layer", [Gated, Gated.__name__ and bridge.to_linen(nnx.Linear, 4, 4), nn.Dense(3)])
def test_layers(check_layer, layer):
    report = check_layer(layer, X, only=ONLY)
    assert [check.name for check in report] == ONLY
""")
    result.assert_outcomes(passed=3)


def test_a_marker_gives_the_defaults(project):
    result = project("""
pytestmark = pytest.mark.bridge_layer(only=ONLY, rngs="params")


def test_module_marker(check_layer):
    check_layer(nnx.Dropout, X, kwargs={"rate": 0.5}, rngs=["dropout"])


@pytest.mark.bridge_layer(rngs="dropout", allow="used")
def test_closest_marker_wins(check_layer):
    check_layer(nnx.Dropout, X, kwargs={"rate": 0.5})


def test_faulty(check_layer):
    check_layer(nnx.Dropout, X, kwargs={"rate": 0.5})


@pytest.mark.bridge_layer("params")
def test_by_position(check_layer):
    check_layer(nnx.Linear, X)
""")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*bridge_layer('params',): options are given by name, as bridge_layer(rngs='params')*"]
    )


def test_allowed_checks_may_fail(project):
    result = project("""
def test_allowed(check_layer):
    options = {"kwargs": {"rate": 0.5}, "rngs": "params", "only": ONLY}
    report = check_layer(Gated, X, allow=["streams"], **options)
    assert report["streams"].verdict == "fail"
""")
    result.assert_outcomes(passed=1)


WRONG = {
    "Gated, X, allow='stream'": "allow='stream': no such check; there are complete, *",
    "Gated, X, only='stream'": "only='stream': no such check; there are complete, *",
    "nn.Dense(3), X, kwargs={'features': 3}": "layer: a Dense is made already, and takes no kwargs; *",
    "nnx.Linear(2, 2, rngs=nnx.Rngs(0)), X": "layer: a Linear is made already; the class itself is wanted.",
    "3, X": "layer: a int is neither a class nor a factory that takes rngs.",
    "Gated, 'x'": "x is a str, and an array is wanted.",
}


def test_wrong_arguments_are_one_sentence(project):
    tests = [f"def test_{num}(check_layer):\n    check_layer({call})\n" for num, call in enumerate(WRONG)]
    result = project("\n\n".join(tests))
    result.assert_outcomes(failed=len(WRONG))
    result.stdout.fnmatch_lines([f"E       Failed: {message}" for message in WRONG.values()])
    assert "Traceback" not in result.stdout.str()


def test_tests_of_layers_can_be_left_out(project):
    tests = "def test_layer(check_layer):\n    check_layer(Gated, X)\n\n\ndef test_other():\n    pass\n"
    project(tests, "-m", "not bridge_layer", "--strict-markers").assert_outcomes(passed=1, deselected=1)


def test_the_start_imports_no_jax():
    code = f"""
import sys, warnings
import pytest
before = list(warnings.filters)
import {PLUGIN}
assert warnings.filters == before
heavy = {{"jax", "flax", "numpy", "hydra", "yaml", "pyarrow", "rich"}}
assert heavy.isdisjoint(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_warnings_filters_stay_as_they_were(project):
    result = project("""
import warnings

class Warns(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        warnings.warn("mine")
        return self.linear(x)


def test_filters(check_layer):
    before = list(warnings.filters)
    check_layer(Gated, X, only=ONLY)
    assert warnings.filters == before
    with pytest.raises(UserWarning, match="theirs"):
        warnings.warn("theirs")


@pytest.mark.filterwarnings("ignore:mine")
def test_ignored(check_layer):
    check_layer(Warns, X, only=ONLY)


def test_not_ignored(check_layer):
    check_layer(Warns, X, only=ONLY)
""")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*mine*"])


def test_the_entry_point_names_the_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert list(project["entry-points"]["pytest11"].values()) == [PLUGIN]
