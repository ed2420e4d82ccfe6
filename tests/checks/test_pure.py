"""The check `pure`: numbers that no seed and no input decides."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import flax
import impure_layers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

from runner.checks import pure
from runner.checks.probes.subject import subject_of
from runner.checks.user_code import next_process, other_seeds
from runner.experiment import execute
from runner.experiment.draft import make_draft
from runner.experiment.failures import CheckFailed
from runner.experiment.identity import identity_of
from runner.records.record import Verdict

pytestmark = pytest.mark.usefixtures("any_hash_seed")

X = jnp.ones((2, 4))
FAULTY = ["UnseededTable", "Clock", "SystemBytes", "Numbered", "Coin", "NumpyParam", "TakesTurns", "SwapsTables"]
HEALTHY = ["Plain", "SeededTable", "SeedsGlobally", "Timed", "NumberedInName", "Remembered", "Called", "Printed"]
HEALTHY_COUNTS = ["CountedAside", "ClockOfText", "SaidByFirstHost", "NamesItsHost"]
HEALTHY_HASHES = ["HashedNumbers", "HashedNumberSetting", "HashedForCache", "KeyedByProcess", "Digested"]
HEALTHY_SETS = ["Sorted", "Tested", "NumbersInSet"]


def of(name):
    return pure.check(subject_of(bridge.to_linen(getattr(impure_layers, name)), X), full=False)


@pytest.mark.parametrize("name", FAULTY)
def test_trace_dependent_numbers_fail(name):
    check = of(name)
    assert check.verdict is Verdict.fail
    assert check.detail.startswith("the same input, traced twice, differs: ")
    assert check.detail.endswith("; numbers can't be repeated")


@pytest.mark.parametrize(("name", "source"), [("NumpyParam", "numpy.random"), ("Coin", "random")])
def test_the_global_generator_is_named(name, source):
    check = of(name)
    assert f"; drawn from {source}; " in check.detail
    assert check.evidence["drawn_from"] == [source]


def test_the_constants_that_differ_are_named():
    assert of("NumpyParam").detail.startswith(
        "the same input, traced twice, differs: init has a constant float32[4, 4] "
    )


@pytest.mark.sampled
@pytest.mark.parametrize("name", [*HEALTHY, *HEALTHY_HASHES, *HEALTHY_SETS, *HEALTHY_COUNTS])
def test_healthy_layers_that_look_impure_pass(name):
    check = of(name)
    assert (check.verdict, check.detail) == (Verdict.passed, "init and apply are the same programs when traced again")


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("HashedName", "hash('encoder') is"),
        ("HashedPair", "hash(('block', 3)) is"),
        ("HashedSetting", "hash(Setting(name='wide', note='')) is"),
        ("HashedClass", "hash(<class 'impure_layers.HashedClass'>) is"),
        ("HashedMember", "hash(<Size.WIDE: 2>) is"),
        ("OfProcess", "os.getpid() is"),
        ("OfHost", "jax.process_index() is"),
        ("OfPairOfHosts", "jax.process_index() is"),
        ("OfImportedProcess", "os.getpid() is"),
        ("OfMachine", "socket.gethostname() is"),
        ("HourOfClock", "time.time() is"),
        ("DayInText", "time.strftime('%j') is"),
    ],
)
def test_numbers_of_one_process_fail(name, asked):
    check = of(name)
    assert check.verdict is Verdict.fail
    assert check.detail.startswith(f"{asked} another in every process: init has ")
    assert impure_layers.getpid is os.getpid
    assert hash.__module__ == os.getpid.__module__.replace("posix", "builtins") == "builtins"  # put back


def test_text_hashes_hold_under_a_hash_seed(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert of("HashedName").verdict is Verdict.passed


def test_a_callback_that_draws_fails():
    check = of("CalledNoise")
    assert check.verdict is Verdict.fail
    assert check.detail.startswith("the same input, apply called twice, differs in ")
    assert ": what pure_callback gives differs each time; " in check.detail


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("FromSet", "for name in {'query', 'key', 'value'}"),
        ("FromKnownSet", "{name: nnx.Linear(WIDTH, WIDTH, rngs=rngs) for name in PARTS}"),
        ("InSet", "list(set('ab'))"),
        ("FromHelper", "list(set(names))"),
        ("FromGivenSet", "{name: nnx.Linear(WIDTH, WIDTH, rngs=rngs) for name in parts_of(PARTS)}"),
        ("FromViews", "for name in WANTED.keys() & {'query': 0, 'key': 0, 'value': 0}.keys()"),
        ("FromUnion", "for name in {'query'}.union(PARTS)"),
        ("OfFunctions", "for act in self.acts"),
    ],
)
def test_iterating_a_set_of_names_fails(name, line, monkeypatch):
    check = of(name)
    assert check.verdict is Verdict.fail
    assert check.detail.startswith("the order of a set of names differs from process to process: impure_layers.py:")
    assert f": {line}; numbers can't be repeated" in check.detail
    assert check.fix == "sorted(…)  # around the set; or a tuple in its place"
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert of(name).verdict is Verdict.passed


@pytest.mark.parametrize("name", ["OfNumbers", "OrderedByHelper", "NamedInError"])
def test_a_set_whose_order_changes_nothing_passes(name):
    assert of(name).verdict is Verdict.passed


class Holder(nnx.Module):
    def __init__(self, block, *, rngs):
        self.block = block(rngs=rngs)

    def __call__(self, x):
        return self.block(x)


@pytest.mark.parametrize(("name", "verdict"), [("FromSet", Verdict.fail), ("Sorted", Verdict.passed)])
def test_what_a_partial_binds_is_read(name, verdict):
    bound = functools.partial(Holder, block=functools.partial(getattr(impure_layers, name)))
    assert pure.check(subject_of(bridge.to_linen(bound), X), full=False).verdict is verdict


def settings():
    return {**jax.config.values, "flax": repr(flax.config)}


SHARDS = "flax_always_shard_variable=False"


@pytest.mark.parametrize(
    ("name", "changed", "fix"),
    [
        ("SetsPrecision", ["jax_default_matmul_precision=float32"], pure.WITHIN),
        ("SetsX64AtCall", ["jax_enable_x64=True"], pure.WITHIN),
        ("SetsFlax", [SHARDS], pure.AT_START),
        ("SetsBoth", ["jax_numpy_dtype_promotion=strict", SHARDS], pure.WITHIN),
    ],
)
def test_settings_of_the_whole_process_fail(name, changed, fix):
    before = settings()
    checks = [of(name) for _ in range(2)]  # the second one is no better off for the first
    assert [check.verdict for check in checks] == [Verdict.fail] * 2
    of_process = f"sets {', '.join(changed)} for the whole process, every other layer included"
    assert checks[0].detail == f"constructing or calling the layer {of_process}"
    assert (checks[0].evidence["settings"], checks[0].fix) == (changed, fix)
    assert settings() == before


def test_what_changes_settings_is_refused_before_others_compile_with_them(make_run):
    before = dict(jax.config.values)
    run = make_run("layer=custom", "layer.target=impure_layers.SetsX64AtCall", "input_shape=[2,4]")
    with pytest.raises(CheckFailed) as caught:
        execute.prepare(make_draft(run, identity_of(run)), run)
    assert caught.value.check.name == "pure"
    assert dict(jax.config.values) == before


@pytest.mark.parametrize("name", ["PreciseInside", "SetsBack"])
def test_settings_of_the_layer_alone_pass(name):
    assert of(name).verdict is Verdict.passed


def test_suggested_setting_is_the_layers_own():
    class Fixed(nnx.Module):
        def __init__(self, *, rngs):
            self.kernel = nnx.Param(jax.random.normal(rngs.params(), (4, 4)))

        def __call__(self, x):
            names = {"self": self, "jax": jax, "x": x}
            exec(of("SetsPrecision").fix, names)
            return names["y"]

    check = pure.check(subject_of(bridge.to_linen(Fixed), X), full=False)
    assert check.verdict is Verdict.passed


def test_suggested_fix_is_pure():
    lines = of("NumpyParam").fix.splitlines()

    class Fixed(nnx.Module):
        def __init__(self, *, rngs):
            names = {"self": self, "nnx": nnx, "jax": jax, "rngs": rngs}
            exec(lines[1], names)
            self.rngs = rngs

        def __call__(self, x):
            names = {"self": self, "jax": jax, "y": x @ self.noise[...]}
            exec(lines[2], names)
            return names["y"]

    check = pure.check(subject_of(bridge.to_linen(Fixed), X), full=False)
    assert check.verdict is Verdict.passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["NumpyParam", "CalledNoise", "FromSet"])
def test_impure_layers_stop_only_strict_runs(name, make_run):
    words = ["layer=custom", f"layer.target=impure_layers.{name}", "input_shape=[2,4]"]
    run = make_run(*words)
    with pytest.raises(CheckFailed) as caught:
        execute.prepare(make_draft(run, identity_of(run)), run)
    assert caught.value.check.name == "pure"
    run = make_run(*words, "checks=warn")
    program = execute.prepare(make_draft(run, identity_of(run)), run)
    assert "pure" in [check.name for check in program.checks if check.verdict is Verdict.fail]


def test_only_the_tracing_thread_gets_other_answers():
    own = os.getpid()
    with ThreadPoolExecutor(1) as pool, next_process.answers() as asked:
        assert pool.submit(lambda: os.getpid()).result(timeout=60) == own
        assert asked == []
        assert os.getpid() == own + 1
        assert asked == ["os.getpid()"]
    assert os.getpid() == own


def test_overlapping_answers_leave_no_swap():
    real = os.getpid
    with ThreadPoolExecutor(1) as pool:
        first = next_process.answers()
        first.__enter__()
        second = next_process.answers()
        pool.submit(second.__enter__).result(timeout=60)
        first.__exit__(None, None, None)
        assert os.getpid() == real()
        pool.submit(second.__exit__, None, None, None).result(timeout=60)
    assert os.getpid is real


def test_swapped_classes_still_know_their_instances():
    generator = np.random.RandomState(0)
    with other_seeds.given() as asked:
        assert isinstance(generator, np.random.RandomState)
        np.random.RandomState(0)
    assert asked == ["np.random.RandomState(0)"]


def test_text_hashes_in_installed_packages_fail(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    for package, number in [("hashed_pkg", "hash('scale')"), ("digested_pkg", "len('scale')")]:
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(
            "from flax import nnx\n\n"
            "class Layer(nnx.Module):\n"
            "    def __init__(self, *, rngs):\n"
            "        self.linear = nnx.Linear(4, 4, rngs=rngs)\n"
            f"        self.scale = 1.0 + {number} % 1000\n\n"
            "    def __call__(self, x):\n"
            "        return self.linear(x) * self.scale\n"
        )
    monkeypatch.syspath_prepend(str(folder))
    for package, verdict in [("hashed_pkg", Verdict.fail), ("digested_pkg", Verdict.passed)]:
        module = importlib.import_module(package)
        assert pure.check(subject_of(bridge.to_linen(module.Layer), X), full=False).verdict is verdict
        monkeypatch.delitem(sys.modules, package)
