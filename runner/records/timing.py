"""Times in a record: samples, what they sum up to, and the phases of a program. `_s` are seconds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Raw times of one quantity.

    Attributes:
      durations_s: Seconds a call, one entry a sample, outliers included.
      num_calls: Calls inside one sample (the inner loop).
      num_discarded: Samples thrown out because something was compiled during them.
    """

    durations_s: list[float]
    num_calls: int = 1
    num_discarded: int = 0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Samples as numbers; see `runner.timing.stats.summarize`.

    Attributes:
      median_low_s: Lower end of the 99 % nonparametric interval of the median; None where there are too few samples.
      median_high_s: Its upper end.
      flags: Why the number is to be read with care, e.g. `short` or `spread`.
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
    """Samples and what they sum up to."""

    samples: Samples
    summary: Summary


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as long one quantity takes as another, from samples taken side by side.

    Attributes:
      median: Of the ratios, one a round.
      low: Lower end of the 99 % nonparametric interval of the median; None where there are too few rounds.
      high: Its upper end.
      flags: Flags of either quantity: why the ratio is to be read with care.
    """

    median: float
    low: float | None
    high: float | None
    flags: list[str]


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """One quantity over several runs, a number a run; see `runner.timing.stats.aggregate`.

    Attributes:
      num: Runs that have it.
      median: Of their numbers.
      low: Lower end of the 99 % nonparametric interval of the median; None under 8 runs.
      high: Its upper end.
    """

    num: int
    median: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Seconds from a function to its first result, each phase by itself.

    Attributes:
      trace_s: `jit(f).trace(…)`.
      lower_s: `.lower()`.
      compile_s: `.compile()`, with the label of the persistent compilation cache beside it.
      cache: off, cold (compiled and put in) or warm (taken out).
      contended: True if trace, lower and compile shared the machine with other work of this program.
      first_call_s: The first call of this run; None where it was not reached.
    """

    trace_s: float
    lower_s: float
    compile_s: float
    cache: str
    contended: bool = False
    first_call_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class GpuInfo:
    """A GPU as `nvidia-smi` saw it when the samples were taken; None is what it does not say.

    Attributes:
      index: Its number there.
      name: Its model.
      clock_mhz: Clock of its multiprocessors.
      max_clock_mhz: The highest that it may have.
      memory_clock_mhz: Clock of its memory.
      temperature_c: In degrees Celsius.
      num_other_processes: Processes that compute on it beside this one.
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
    """Times of one run, a device's caches warm from the same call before. The steady ones are None with `timing=off`.

    Attributes:
      construct_s: Importing and wrapping the class.
      init: Phases of `model.init`.
      apply: Phases of `model.apply`.
      compiled_here: False where another run of the sweep compiled the program: trace, lower and compile are then its.
      init_latency: One blocking call of init.
      apply_dispatch: Until the call returns, before the device is done.
      apply_latency: One blocking call of apply: the headline.
      apply_throughput: Seconds a call with many in flight and one block at the end.
      apply_device: Kernels of one apply by the GPU's own clock, without the gaps between them; None elsewhere.
      checkpoint_s: Saving the variables.
      tracker_s: Making the W&B run.
      load_average: One-minute load average when the samples were taken.
      contended: True if work of this program ran beside the samples.
      GPUs: The GPUs of the machine, where one was used and `nvidia-smi` is there.
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
