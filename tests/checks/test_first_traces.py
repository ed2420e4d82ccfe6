"""Which first traces of a layer can stand for second ones, and what one digest stands for."""

from __future__ import annotations

import importlib

import impure_layers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.nnx import bridge

from runner.checks.probes.subject import subject_of
from runner.checks.programs.digests import digest
from runner.checks.user_code import swapped

X = jnp.ones((2, 4))


@pytest.mark.parametrize(
    ("name", "are_kept"),
    [
        ("Plain", True),
        ("SeededTable", True),
        ("UnseededTable", True),  # any two traces of it differ
        ("HourOfClock", False),
        ("HashedName", False),
        ("Coin", False),
        ("TakesTurns", False),
        ("CountedAside", False),
        ("CountedInItsClass", False),
    ],
)
def test_traces_that_asked_nothing_are_kept(name, are_kept):
    subject = subject_of(bridge.to_linen(getattr(impure_layers, name)), X)
    assert (subject.first_traces is not None) is are_kept


def test_of_installed_packages_those_with_nnx_count(tmp_path, monkeypatch):
    for name, lines in {"with_nnx": "from flax import nnx\n", "without_nnx": ""}.items():
        package = tmp_path / "site-packages" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "counters.py").write_text("")
        (package / "layers.py").write_text(f"from {name} import counters\n{lines}")
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    for name in ("with_nnx", "without_nnx"):
        importlib.import_module(f"{name}.layers")
    found = {one.__name__ for one in swapped.of_layers() if one.__name__.startswith("with")}
    assert found == {"with_nnx", "with_nnx.counters", "with_nnx.layers"}
    assert __name__ in {one.__name__ for one in swapped.of_layers()}


def traced(function):
    return jax.make_jaxpr(lambda x: function(x))(X)


def branched(low, high):
    return lambda x: jax.lax.cond(x.sum() > 0, lambda y: y * low, lambda y: y * high, x)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: (x * 2.0, x + 1.0),
        lambda x: (x + 1.0, x * 3.0),
        lambda x: (x + 1.0, (x * 2.0).astype("bfloat16")),
        lambda x: (x + 1.0, x * jnp.asarray(np.full((2, 4), 2.0, np.float32))),
        branched(1.0, 2.0),
    ],
    ids=["order of outputs", "number", "dtype", "constant", "branches"],
)
def test_different_programs_have_different_digests(other):
    assert digest(traced(lambda x: (x + 1.0, x * 2.0))) != digest(traced(other))


def test_equal_programs_have_one_digest():
    table = np.arange(4.0, dtype=np.float32)
    for one in (branched(1.0, 2.0), lambda x: jnp.sin(x) @ x.T, lambda x: x * table):
        before = digest(traced(one))
        jax.clear_caches()
        assert digest(traced(one)) == before
    assert digest(traced(branched(1.0, 2.0))) != digest(traced(branched(1.0, 3.0)))


def test_only_chosen_outputs_count():
    one, two = traced(lambda x: (x + 1.0, x * 2.0)), traced(lambda x: (x + 1.0, x * 2.0, x))
    assert digest(one) == digest(two, [0, 1])
    assert digest(one) != digest(two, [0, 2])
