"""Timing types of a record: samples, summaries and compilation phases. `_s` are seconds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Raw timing samples of one quantity.

    Attributes:
      durations_s: Seconds per call, one entry per sample, outliers included.
      num_calls: Calls inside one sample (the inner loop).
      num_discarded: Samples discarded because something was compiled during them.
    """

    durations_s: list[float]
    num_calls: int = 1
    num_discarded: int = 0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Summary statistics of samples; see `runner.timing.stats.summarize`.

    Attributes:
      median_low_s: Lower end of the 99 % nonparametric interval of the median; None if there are too few samples.
      median_high_s: Upper end.
      flags: Reasons to treat the number with caution, e.g. `short` or `spread`.
    """

    num_samples: int
    median_s: float
    min_s: float
    max_s: float
    mean_s: float
    std_s: float
    quartile1_s: float
    quartile3_s: float
    mad_s: float
    median_low_s: float | None
    median_high_s: float | None
    num_outliers: int
    flags: list[str]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Samples and their summary."""

    samples: Samples
    summary: Summary


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Ratio of two quantities' times, from interleaved samples.

    Attributes:
      median: Median of the ratios, one per round.
      low: Lower end of the 99 % nonparametric interval of the median; None if there are too few rounds.
      high: Upper end.
      flags: Flags of either quantity: reasons to treat the ratio with caution.
    """

    median: float
    low: float | None
    high: float | None
    flags: list[str]


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """One quantity over several runs, one number per run; see `runner.timing.stats.aggregate`.

    Attributes:
      num: Number of runs that have it.
      median: Median of their numbers.
      low: Lower end of the 99 % nonparametric interval of the median; None for fewer than 8 runs.
      high: Upper end.
    """

    num: int
    median: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Seconds from a function to its first result, by phase.

    Attributes:
      trace_s: `jit(f).trace(…)`.
      lower_s: `.lower()`.
      compile_s: `.compile()`; see `cache` for the persistent compilation cache.
      cache: off, cold (compiled and stored) or warm (loaded from the cache).
      contended: True if trace, lower and compile overlapped with other work of this program.
      first_call_s: The first call of this run; None if it was not reached.
    """

    trace_s: float
    lower_s: float
    compile_s: float
    cache: str
    contended: bool = False
    first_call_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class GpuInfo:
    """A GPU as reported by `nvidia-smi` when the samples were taken; None for what it does not report.

    Attributes:
      index: Its index in `nvidia-smi`.
      name: Its model.
      clock_mhz: Current SM clock.
      max_clock_mhz: Maximum SM clock.
      memory_clock_mhz: Current memory clock.
      temperature_c: In degrees Celsius.
      num_other_processes: Other compute processes on it.
    """

    index: int | None
    name: str | None
    clock_mhz: int | None
    max_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    num_other_processes: int | None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of one run; device caches are warm from a previous identical call. Steady times are None with `timing=off`.

    Attributes:
      construct_s: Importing and wrapping the class.
      init: Phases of `model.init`.
      apply: Phases of `model.apply`.
      compiled_here: False if another run of the sweep compiled the program: trace, lower and compile are that run's.
      init_latency: One blocking call of init.
      apply_dispatch: Time until the call returns, before the device is done.
      apply_latency: One blocking call of apply: the headline number.
      apply_throughput: Seconds per call with many in flight and one block at the end.
      apply_device: Kernel time of one apply by the GPU's own clock, without gaps; None where not available.
      checkpoint_s: Saving the variables.
      tracker_s: Creating the W&B run.
      load_average: One-minute load average when the samples were taken.
      contended: True if other work of this program ran while sampling.
      gpus: GPUs of the machine, if one was used and `nvidia-smi` is available.
    """

    construct_s: float
    init: Phases
    apply: Phases
    compiled_here: bool
    init_latency: Measurement | None = None
    apply_dispatch: Measurement | None = None
    apply_latency: Measurement | None = None
    apply_throughput: Measurement | None = None
    apply_device: Measurement | None = None
    checkpoint_s: float | None = None
    tracker_s: float | None = None
    load_average: float | None = None
    contended: bool = False
    gpus: list[GpuInfo] = field(default_factory=list)
