"""What is in a sample and what is not, on a clock that only the calls move."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from runner.config.enums import TimingMode
from runner.config.settings.execution import TimingSettings
from runner.timing.clock import (
    MAX_RETAKES,
    compile_interleaved,
    compile_phases,
    first_call,
    measure,
    measure_interleaved,
    measure_on_device,
    measure_pipelined,
    measure_program,
    seconds,
)

MS = 1_000_000

CACHED = """
import sys
import jax, jax.numpy as jnp
from runner.arrays import devices
from runner.timing import clock
devices.prepare_process(1, sys.argv[1])
x = jax.ShapeDtypeStruct((3,), jnp.float32)
for _ in range(2):
    compiled, phases = clock.compile_phases(lambda x: jnp.sin(x) * 17, (x,))
    print(phases.cache, compiled(jnp.ones(3)).shape)
    jax.clear_caches()
"""


class Clock:
    """A clock that stands still but for `sleep`."""

    def __init__(self):
        self.now = 5 * MS

    def __call__(self):
        return self.now

    def sleep(self, nanoseconds):
        self.now += nanoseconds


class Call:
    """A call that takes the given times, one after the other, then the last one for ever."""

    def __init__(self, clock, *times):
        self.clock, self.times, self.num = clock, times, 0

    def __call__(self):
        self.clock.sleep(self.times[min(self.num, len(self.times) - 1)])
        self.num += 1


class Pending:
    """A result that is ready only after a wait."""

    def __init__(self, clock, wait):
        self.clock, self.wait, self.num_waits = clock, wait, 0

    def block_until_ready(self):
        self.clock.sleep(self.wait)
        self.num_waits += 1
        return self


def compile_something_new(size):
    jax.jit(lambda x: x * 2 + size)(jnp.ones(size)).block_until_ready()


def test_warmup_calls_are_not_sampled():
    clock = Clock()
    call = Call(clock, 900 * MS, 800 * MS, 1 * MS, 2 * MS, 3 * MS)
    samples = measure(call, warmup=2, rounds=3, clock=clock)
    assert samples.durations_s == [0.001, 0.002, 0.003]
    assert (samples.num_calls, samples.num_discarded, call.num) == (1, 0, 5)


@pytest.mark.parametrize(("min_warmup_s", "num_warmup"), [(0.0, 1), (0.1, 1), (0.35, 4)])
def test_warmup_lasts_its_minimum_time(min_warmup_s, num_warmup):
    clock = Clock()
    call = Call(clock, *[100 * MS] * num_warmup, MS)
    samples = measure(call, warmup=1, rounds=2, min_warmup_s=min_warmup_s, clock=clock)
    assert samples.durations_s == [0.001, 0.001]
    assert call.num == num_warmup + 2


@pytest.mark.parametrize(
    ("min_sample_s", "num_calls"),
    [(0.0, 1), (0.0005, 1), (0.001, 1), (0.0011, 2), (0.008, 8), (0.01, 16)],
)
def test_short_calls_are_looped(min_sample_s, num_calls):
    clock = Clock()
    call = Call(clock, MS)
    samples = measure(call, warmup=1, rounds=2, min_sample_s=min_sample_s, clock=clock)
    assert samples.num_calls == num_calls
    assert samples.durations_s == [0.001, 0.001]  # a call, not a sample
    calibration = 2 * num_calls - 1 if min_sample_s else 0
    assert call.num == 1 + calibration + 2 * num_calls


def test_samples_with_compilation_are_discarded():
    clock = Clock()
    call = Call(clock, MS, MS, 500 * MS, 2 * MS)

    def sometimes_compiling():
        call()
        if call.num == 3:
            compile_something_new(3)

    samples = measure(sometimes_compiling, warmup=1, rounds=3, clock=clock)
    assert samples.durations_s == [0.001, 0.002, 0.002]
    assert samples.num_discarded == 1


def test_calls_that_always_compile_are_measured():
    clock = Clock()
    call = Call(clock, MS)

    def always_compiling():
        call()
        compile_something_new(call.num)

    samples = measure(always_compiling, warmup=1, rounds=2, clock=clock)
    assert (len(samples.durations_s), samples.num_discarded) == (2, MAX_RETAKES)


@pytest.mark.parametrize(("block", "duration_s"), [(True, 0.010), (False, 0.001)])
def test_blocking_samples_wait_for_results(block, duration_s):
    clock = Clock()
    results = []

    def call():
        clock.sleep(MS)
        results.append(Pending(clock, 9 * MS))
        return {"y": results[-1]}

    samples = measure(call, warmup=1, rounds=2, block=block, clock=clock)
    assert samples.durations_s == [duration_s] * 2
    assert all(result.num_waits >= 1 for result in results)


def test_blocking_loops_wait_for_each_call():
    clock = Clock()

    def call():
        clock.sleep(MS)
        return Pending(clock, MS)

    samples = measure(call, warmup=1, rounds=2, min_sample_s=0.008, clock=clock)
    assert (samples.num_calls, samples.durations_s) == (4, [0.002, 0.002])


def test_pipelined_calls_share_one_wait():
    clock = Clock()
    started = []

    class Queued(Pending):
        def block_until_ready(self):
            if self is started[-1]:  # the last of a pipeline takes the device's time, the others are done by then
                self.clock.sleep(6 * MS)
            return self

    def call():
        clock.sleep(MS)
        started.append(Queued(clock, 0))
        return started[-1]

    samples = measure_pipelined(call, depth=4, rounds=3, clock=clock)
    assert samples.durations_s == [(4 + 6) / 4 * 1e-3] * 3
    assert (samples.num_calls, len(started)) == (4, 12)


def test_interleaved_calls_rotate_each_round():
    clock = Clock()
    order = []

    def call(name, nanoseconds):
        return lambda: (order.append(name), clock.sleep(nanoseconds))[1]

    calls = {"one": call("one", MS), "two": call("two", 2 * MS), "three": call("three", 3 * MS)}
    samples = measure_interleaved(calls, warmup=1, rounds=4, clock=clock)
    assert order[3:] == ["one", "two", "three", "two", "three", "one", "three", "one", "two", "one", "two", "three"]
    assert {name: taken.durations_s for name, taken in samples.items()} == {
        "one": [0.001] * 4,
        "two": [0.002] * 4,
        "three": [0.003] * 4,
    }


def test_interleaved_calls_share_a_loop_count():
    clock = Clock()
    calls = {"short": Call(clock, MS), "long": Call(clock, 8 * MS)}
    samples = measure_interleaved(calls, warmup=1, rounds=2, min_sample_s=0.008, clock=clock)
    assert [(taken.num_calls, taken.durations_s) for taken in samples.values()] == [
        (8, [0.001] * 2),
        (8, [0.008] * 2),
    ]


def test_rounds_with_compilation_are_retaken():
    clock = Clock()
    first, second = Call(clock, MS, MS, 2 * MS), Call(clock, MS, 500 * MS, 3 * MS)

    def once_compiling():
        second()
        if second.num == 2:
            compile_something_new(5)

    calls = {"first": first, "second": once_compiling}
    samples = measure_interleaved(calls, warmup=1, rounds=2, clock=clock)
    assert {name: taken.durations_s for name, taken in samples.items()} == {
        "first": [0.002] * 2,
        "second": [0.003] * 2,
    }
    assert {taken.num_discarded for taken in samples.values()} == {1}


def test_interleaved_programs_are_retraced_every_round():
    traced = []

    def one(x):
        traced.append("one")
        return x + 1

    def two(x):
        traced.append("two")
        return x + 2

    ticks = iter(range(0, 1000 * MS, MS))
    x = jnp.ones(3)
    functions, arguments = {"one": one, "two": two}, {"one": (x,), "two": (x,)}
    compiled, phases = compile_interleaved(functions, arguments, rounds=2, clock=lambda: next(ticks))
    assert traced == ["one", "two", "one", "two", "two", "one"]
    assert [compiled["one"](x).tolist(), compiled["two"](x).tolist()] == [[2, 2, 2], [3, 3, 3]]
    assert {name: [one.compile_s for one in costs] for name, costs in phases.items()} == {
        "one": [0.001] * 2,
        "two": [0.001] * 2,
    }


def test_programs_have_four_named_times():
    clock = Clock()
    settings = TimingSettings(warmup=1, rounds=3, pipeline=2)
    init, apply = Call(clock, 4 * MS), Call(clock, 2 * MS)
    steady = measure_program(init, apply, settings, num_cores=2, load_average=3.0, clock=clock)
    medians = {name: one.summary.median_s for name, one in steady.items()}
    assert medians == {"apply_latency": 2e-3, "apply_dispatch": 2e-3, "apply_throughput": 2e-3, "init_latency": 4e-3}
    assert {tuple(one.summary.flags) for one in steady.values()} == {("loaded",)}
    assert {len(one.samples.durations_s) for one in steady.values()} == {3}


def test_timing_follows_its_settings():
    clock = Clock()
    waits = []

    def apply():
        clock.sleep(2 * MS)
        waits.append(Pending(clock, 8 * MS))
        return waits[-1]

    settings = TimingSettings(warmup=1, rounds=2, min_warmup_s=0.1, min_sample_s=0.035, pipeline=2)
    steady = measure_program(Call(clock, 10 * MS), apply, settings, num_cores=2, load_average=None, clock=clock)
    medians = {name: round(one.summary.median_s, 6) for name, one in steady.items()}
    assert (medians["apply_latency"], medians["apply_dispatch"]) == (0.010, 0.002)
    assert {name: steady[name].samples.num_calls for name in ("apply_latency", "init_latency")} == {
        "apply_latency": 4,
        "init_latency": 4,
    }
    before = measure_program(
        Call(clock, MS), call := Call(clock, 10 * MS), settings, num_cores=2, load_average=None, clock=clock
    )
    without = dataclasses.replace(settings, min_warmup_s=0.0)
    again = measure_program(
        Call(clock, MS), other := Call(clock, 10 * MS), without, num_cores=2, load_average=None, clock=clock
    )
    assert before.keys() == again.keys()
    assert call.num - other.num == 2 * (10 - 1)


@pytest.mark.parametrize(
    ("call_ms", "max_s", "num_warmup", "num_samples"),
    [(100, 2.0, 2, 10), (300, 2.0, 2, 7), (900, 2.0, 2, 3), (2500, 2.0, 1, 3), (2500, 0.0, 2, 10)],
)
def test_long_calls_need_few_samples(call_ms, max_s, num_warmup, num_samples):
    clock = Clock()
    init, apply = Call(clock, call_ms * MS), Call(clock, MS)
    settings = TimingSettings(max_s=max_s)
    steady = measure_program(init, apply, settings, num_cores=1, load_average=None, clock=clock)
    assert len(steady["init_latency"].samples.durations_s) == num_samples
    assert init.num == num_warmup + num_samples
    assert len(steady["apply_throughput"].samples.durations_s) == 10


@pytest.mark.parametrize(("first_s", "num_warmup"), [(0.0, 2), (0.5, 2), (1.5, 1), (30.0, 1)])
def test_a_first_call_is_warm_up_but_not_the_last_of_it(first_s, num_warmup):
    clock = Clock()
    init, apply = Call(clock, 1000 * MS), Call(clock, 1000 * MS)
    first = {"init_first_s": first_s, "apply_first_s": first_s}
    measure_program(init, apply, TimingSettings(pipeline=1), num_cores=1, load_average=None, clock=clock, **first)
    assert init.num == num_warmup + 3
    assert apply.num == 2 * (num_warmup + 3) + 3  # latency, dispatch, throughput


def test_long_pipelines_need_few_samples():
    clock = Clock()
    apply = Call(clock, 300 * MS)
    steady = measure_program(Call(clock, MS), apply, TimingSettings(), num_cores=1, load_average=None, clock=clock)
    numbers = {name: len(one.samples.durations_s) for name, one in steady.items()}
    assert numbers == {"apply_latency": 7, "apply_dispatch": 7, "apply_throughput": 3, "init_latency": 10}


def test_with_timing_off_nothing_is_called():
    clock = Clock()
    call = Call(clock, MS)
    off = TimingSettings(mode=TimingMode.off)
    assert measure_program(call, call, off, num_cores=1, load_average=None, clock=clock) == {}
    assert call.num == 0


def test_first_call_waits_for_its_result():
    clock = Clock()
    pending = Pending(clock, 3 * MS)
    assert first_call(lambda: pending, clock=clock) == (pending, 0.003)
    assert seconds(lambda: clock.sleep(2 * MS) or "built", clock=clock) == ("built", 0.002)


def test_program_phases_are_consecutive(without_cache):
    ticks = iter(range(0, 100 * MS, MS))
    x = jax.ShapeDtypeStruct((3,), jnp.float32)
    compiled, phases = compile_phases(lambda x: x + 1, (x,), clock=lambda: next(ticks))
    assert compiled(jnp.ones(3)).tolist() == [2, 2, 2]
    assert (phases.trace_s, phases.lower_s, phases.compile_s, phases.cache) == (0.001, 0.001, 0.001, "off")
    assert phases.first_call_s is None


@pytest.mark.slow
def test_caches_from_the_environment_are_detected(tmp_path):
    command = [sys.executable, "-W", "error", "-c", CACHED, "off"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cold (3,)\nwarm (3,)\n")


@pytest.mark.slow
def test_persistent_cache_turns_cold_into_warm(tmp_path):
    def labels():
        command = [sys.executable, "-W", "error", "-c", CACHED, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")

    assert labels()[:2] == ["cold (3,)", "warm (3,)"]
    assert labels()[:2] == ["warm (3,)", "warm (3,)"]


def test_missing_device_clocks_give_no_samples():
    compiled = jax.jit(jnp.sin).lower(jnp.ones(3)).compile()
    assert measure_on_device(compiled, (jnp.ones(3),), rounds=2) is None
