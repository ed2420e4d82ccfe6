"""Measures compilation phases and call times. How and why: docs/about/times.md."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from runner.config.enums import TimingMode
from runner.config.settings.execution import TimingSettings
from runner.records.timing import Measurement, Phases, Samples
from runner.timing import compile_events, stats

Clock = Callable[[], int]

# How often a sample is retried if something was compiled during it.
MAX_RETAKES = 3

# What takes longer than it may ends with this many samples.
MIN_SAMPLES = 3


def measure(
    call: Callable[[], Any],
    *,
    warmup: int,
    rounds: int,
    min_warmup_s: float = 0.0,
    min_sample_s: float = 0.0,
    max_s: float = math.inf,
    before_s: float = 0.0,
    block: bool = True,
    clock: Clock = time.perf_counter_ns,
) -> Samples:
    """Times `call`, one sample per round.

    JAX returns before the device is done, so a sample ends when the whole result is ready
    (https://docs.jax.dev/en/latest/async_dispatch.html). Warm-up calls come before the first sample and are not in the
    result. A call too short for `min_sample_s` is looped inside its sample (calibration as in pyperf,
    https://pyperf.readthedocs.io/en/latest/runner.html#loops).

    Args:
      call: Takes nothing, returns a pytree of arrays.
      warmup: Calls made but not counted, at least 1.
      rounds: Number of samples.
      min_warmup_s: Minimum duration of the warm-up in seconds.
      min_sample_s: Minimum duration of a sample; 0 makes one call per sample.
      max_s: Seconds after which the warm-up ends, after one call or more, and the samples once there are `MIN_SAMPLES`.
      before_s: Seconds that the first call took, before; they count as warm-up.
      block: Whether a sample waits for the device; False times dispatch alone and waits after the sample.
      clock: Nanoseconds from any fixed origin; tests pass a fake one.

    Returns:
      Durations in seconds per call, shape [rounds], or shorter after `max_s`.
    """
    _warm_up(call, warmup, min_warmup_s, clock, max_s=max_s - before_s)
    num_calls = _calibrate(call, min_sample_s, clock) if min_sample_s else 1
    durations: list[float] = []
    num_discarded = 0
    start = clock()
    while len(durations) < rounds and not _enough(len(durations), start, max_s, clock):
        compiled_before = compile_events.num_compiled()
        duration = _sample(call, num_calls, block=block, clock=clock)
        if compile_events.num_compiled() != compiled_before and num_discarded < MAX_RETAKES:
            num_discarded += 1
            continue
        durations.append(duration)
    return Samples(durations_s=durations, num_calls=num_calls, num_discarded=num_discarded)


def measure_pipelined(
    call: Callable[[], Any],
    *,
    depth: int,
    rounds: int,
    max_s: float = math.inf,
    clock: Clock = time.perf_counter_ns,
) -> Samples:
    """Times `depth` calls in flight with one wait at the end; seconds per call, shape as of `measure`."""
    durations: list[float] = []
    began = clock()
    while len(durations) < rounds and not _enough(len(durations), began, max_s, clock):
        start = clock()
        results = [call() for _ in range(depth)]
        jax.block_until_ready(results)
        durations.append((clock() - start) / depth / 1e9)
    return Samples(durations_s=durations, num_calls=depth)


def measure_interleaved(
    calls: Mapping[str, Callable[[], Any]],
    *,
    warmup: int,
    rounds: int,
    min_sample_s: float = 0.0,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, Samples]:
    """Times calls for comparison: every round takes a sample of each, so that drift affects all alike.

    Each round starts with a different call from the one before. All loop equally often inside a sample: as often as the
    shortest needs. A round in which something was compiled is retried as a whole, so that samples stay paired.

    Args:
      calls: By name; each takes nothing and returns a pytree of arrays.
      warmup: Calls of each made but not counted, at least 1.
      rounds: Samples of each.
      min_sample_s: Minimum duration of a sample; 0 makes one call per sample.
      clock: Nanoseconds from any fixed origin; tests pass a fake one.

    Returns:
      Durations in seconds per call by name, shape [rounds]; entries with the same index are from the same round.
    """
    for call in calls.values():
        _warm_up(call, warmup, 0.0, clock)
    num_calls = max(_calibrate(call, min_sample_s, clock) for call in calls.values()) if min_sample_s else 1
    taken: list[dict[str, float]] = []
    num_discarded = 0
    while len(taken) < rounds:
        compiled_before = compile_events.num_compiled()
        order = _rotated(list(calls), len(taken))
        durations = {name: _sample(calls[name], num_calls, block=True, clock=clock) for name in order}
        if compile_events.num_compiled() != compiled_before and num_discarded < MAX_RETAKES:
            num_discarded += 1
            continue
        taken.append(durations)
    return {
        name: Samples(durations_s=[one[name] for one in taken], num_calls=num_calls, num_discarded=num_discarded)
        for name in calls
    }


def measure_program(
    init: Callable[[], Any],
    apply: Callable[[], Any],
    settings: TimingSettings,
    *,
    num_cores: int,
    load_average: float | None,
    shared: bool = False,
    debugging: bool = False,
    init_first_s: float = 0.0,
    apply_first_s: float = 0.0,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, Measurement]:
    """Measures a run's steady times, by their names in `records.Timing`; empty with `timing=off`.

    Args:
      init: Calls init.
      apply: Calls apply.
      settings: How often they are called.
      num_cores: CPU cores of this process.
      load_average: The machine's load before; None where it has none.
      shared: Whether other processes use the device.
      debugging: Whether JAX runs with debug settings.
      init_first_s: Seconds that the first call of `init` took.
      apply_first_s: Seconds that the first call of `apply` took.
      clock: Nanoseconds from any fixed origin.
    """
    if settings.mode is TimingMode.off:
        return {}
    max_s = settings.max_s or math.inf

    def steady(call: Callable[[], Any], before_s: float, *, block: bool) -> Samples:
        return measure(
            call,
            warmup=settings.warmup,
            rounds=settings.rounds,
            min_warmup_s=settings.min_warmup_s,
            min_sample_s=settings.min_sample_s,
            max_s=max_s,
            before_s=before_s,
            block=block,
            clock=clock,
        )

    samples = {
        "apply_latency": steady(apply, apply_first_s, block=True),
        "apply_dispatch": steady(apply, apply_first_s, block=False),
        "apply_throughput": measure_pipelined(
            apply, depth=settings.pipeline, rounds=settings.rounds, max_s=max_s, clock=clock
        ),
        "init_latency": steady(init, init_first_s, block=True),
    }
    found = {}
    for name, one in samples.items():
        summary = stats.summarize(
            one, load_average=load_average, num_cores=num_cores, shared=shared, debugging=debugging
        )
        found[name] = Measurement(samples=one, summary=summary)
    return found


def measure_on_device(compiled: Any, arguments: tuple[Any, ...], *, rounds: int) -> Samples | None:
    """Times a compiled function by the GPU's own clock, one sample per round: kernel time, without the gaps.

    The clock is CUPTI's, as `jax.experimental.mosaic.gpu.profiler.measure` reads it.

    Args:
      compiled: A compiled function that has already been called.
      arguments: Its arguments, on the GPU.
      rounds: Number of samples.

    Returns:
      Seconds, shape [rounds]; None where JAX can't read such a clock.
    """
    try:
        from jax.experimental.mosaic.gpu import profiler

        _, milliseconds = profiler.measure(compiled, iterations=rounds)(*arguments)
    except Exception:  # noqa: BLE001 - experimental, and absent on most platforms: another clock is there all the same
        return None
    found = milliseconds if isinstance(milliseconds, list) else [milliseconds]
    durations = [one / 1e3 for one in found if one is not None]
    return Samples(durations_s=durations) if durations else None


def first_call(call: Callable[[], Any], *, clock: Clock = time.perf_counter_ns) -> tuple[Any, float]:
    """Returns the result of `call`, once ready, and the seconds that took."""
    start = clock()
    result = jax.block_until_ready(call())
    return result, (clock() - start) / 1e9


def seconds(call: Callable[[], Any], *, clock: Clock = time.perf_counter_ns) -> tuple[Any, float]:
    """Returns the result of `call` and the seconds it took on the host."""
    start = clock()
    result = call()
    return result, (clock() - start) / 1e9


def compile_phases(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    out_shardings: Any = None,
    clock: Clock = time.perf_counter_ns,
) -> tuple[Any, Phases]:
    """Compiles `function` for `arguments`; returns it with the time of each phase.

    Args:
      function: The function, as passed to `jax.jit`.
      arguments: Arrays or their shapes and dtypes.
      out_shardings: As passed to `jax.jit`.
      clock: Nanoseconds from any fixed origin.
    """
    compiled, phases, _ = compile_traced(function, arguments, out_shardings=out_shardings, clock=clock)
    return compiled, phases


def compile_traced(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    out_shardings: Any = None,
    clock: Clock = time.perf_counter_ns,
) -> tuple[Any, Phases, jax.stages.Traced]:
    """`compile_phases`, and the trace that was compiled: its `jaxpr`, and its `out_info`."""
    jitted = jax.jit(function, out_shardings=out_shardings)
    traced, trace_s = seconds(lambda: jitted.trace(*arguments), clock=clock)
    lowered, lower_s = seconds(traced.lower, clock=clock)
    with compile_events.cache_hits() as hits:
        compiled, compile_s = seconds(lowered.compile, clock=clock)
    label = "off" if not compile_events.cache_is_on() else "warm" if hits() else "cold"
    return compiled, Phases(trace_s=trace_s, lower_s=lower_s, compile_s=compile_s, cache=label), traced


def compile_interleaved(
    functions: Mapping[str, Callable[..., Any]],
    arguments: Mapping[str, tuple[Any, ...]],
    *,
    rounds: int,
    clock: Clock = time.perf_counter_ns,
) -> tuple[dict[str, Any], dict[str, list[Phases]]]:
    """Compiles functions for comparison; returns them with the time of each phase in every round.

    Shared traces (JAX caches traces of its own inner functions) would be charged to the first function only, so each
    is traced and lowered once before timing starts.

    Args:
      functions: By name, as passed to `jax.jit`.
      arguments: Arguments of each function, by name.
      rounds: How often each is compiled and timed.
      clock: Nanoseconds from any fixed origin.
    """
    compiled: dict[str, Any] = {}
    phases: dict[str, list[Phases]] = {name: [] for name in functions}
    # A new function each time: JAX caches traces.
    for name, function in functions.items():
        jax.jit(functools.partial(function)).trace(*arguments[name]).lower()
    for index in range(rounds):
        for name in _rotated(list(functions), index):
            again = functools.partial(functions[name])
            compiled[name], cost = compile_phases(again, arguments[name], clock=clock)
            phases[name].append(cost)
    return compiled, phases


def _enough(num_samples: int, start: int, max_s: float, clock: Clock) -> bool:
    return num_samples >= MIN_SAMPLES and (clock() - start) / 1e9 >= max_s


def _warm_up(
    call: Callable[[], Any], warmup: int, min_warmup_s: float, clock: Clock, *, max_s: float = math.inf
) -> None:
    compile_events.listen()
    start = clock()
    calls, taken_s = 0, 0.0
    while taken_s < min_warmup_s or calls == 0 or (calls < warmup and taken_s < max_s):
        jax.block_until_ready(call())
        calls, taken_s = calls + 1, (clock() - start) / 1e9


def _rotated(names: list[str], index: int) -> list[str]:
    first = index % len(names)
    return names[first:] + names[:first]


def _calibrate(call: Callable[[], Any], min_sample_s: float, clock: Clock) -> int:
    """The smallest power of two of calls that takes at least `min_sample_s`."""
    num_calls = 1
    while _sample(call, num_calls, block=True, clock=clock) * num_calls < min_sample_s and num_calls < 2**24:
        num_calls *= 2
    return num_calls


def _sample(call: Callable[[], Any], num_calls: int, *, block: bool, clock: Clock) -> float:
    result = None
    start = clock()
    for _ in range(num_calls):
        result = call()
        if block:
            jax.block_until_ready(result)
    duration = (clock() - start) / num_calls / 1e9
    jax.block_until_ready(result)
    return duration
