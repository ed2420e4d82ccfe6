"""Raw times as numbers: where they lie, how they spread, and why to read them with care."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from runner.records import Ratio, Samples, Summary

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.99
MAX_SPREAD = 0.1  # of σ in the mean, and of the interquartile range in the median
MIN_SAMPLE_S = 1e-3  # below it the clock and the call itself are a visible part of a sample


def summarize(
    samples: Samples,
    *,
    load_average: float | None = None,
    num_cores: int | None = None,
    contended: bool = False,
    shared: bool = False,
) -> Summary:
    """Median with its interval, spread, and flags of `samples`; outliers are counted and stay in every number.

    The interval of the median lies between two order statistics whose ranks come from the binomial distribution: it
    assumes nothing about the shape of the distribution (W. J. Conover, Practical Nonparametric Statistics, 3rd ed.,
    1999, section 3.2). It covers the median with a probability of at least 99 %, which takes 8 samples. Quartiles are
    interpolated linearly; outliers lie more than 1.5 interquartile ranges outside them (Tukey's fences).

    Args:
      samples: At least one duration, in seconds a call.
      load_average: Load average when they were taken; None where the system has none.
      num_cores: Cores that the process may use; None leaves the load unjudged.
      contended: Work of this program ran beside them.
      shared: Other processes used the same GPU.

    Returns:
      Seconds a call. The standard deviation (n - 1 in the denominator) of one sample is 0. Flags, always in this order:
      `spread` (σ is 10 % of the mean or more), `iqr` (the interquartile range is above 10 % of the median), `short` (a
      call under 1 ms timed by itself), `loaded` (load average above the cores), `contended`, `shared`.

    Raises:
      ValueError: There is no sample.
    """
    if not samples.durations_s:
        raise ValueError("no samples: a summary needs at least one duration")
    durations = np.sort(np.asarray(samples.durations_s, dtype=np.float64))
    quartile1, median, quartile3 = (_quantile(durations, part) for part in (0.25, 0.5, 0.75))
    mean = float(durations.mean())
    std = float(durations.std(ddof=1)) if durations.size > 1 else 0.0
    low, high = _median_interval(durations)
    flags = {
        "spread": std >= MAX_SPREAD * mean,
        "iqr": quartile3 - quartile1 > MAX_SPREAD * median,
        "short": samples.num_calls == 1 and durations[0] < MIN_SAMPLE_S,
        "loaded": load_average is not None and num_cores is not None and load_average > num_cores,
        "contended": contended,
        "shared": shared,
    }
    return Summary(
        num_samples=durations.size,
        median_s=median,
        min_s=float(durations[0]),
        max_s=float(durations[-1]),
        mean_s=mean,
        std_s=std,
        quartile1_s=quartile1,
        quartile3_s=quartile3,
        mad_s=_quantile(np.sort(np.abs(durations - median)), 0.5),
        median_low_s=low,
        median_high_s=high,
        num_outliers=_num_outliers(durations, quartile1, quartile3),
        flags=[name for name, raised in flags.items() if raised],
    )


def pairwise_ratio(numerator: Samples, denominator: Samples) -> Ratio:
    """How many times as long the first takes as the second, round by round, so that drift hits both alike.

    Args:
      numerator: Samples of interleaved rounds.
      denominator: Samples of the same rounds.

    Raises:
      ValueError: They are not of the same rounds.
    """
    if len(numerator.durations_s) != len(denominator.durations_s):
        counts = f"{len(numerator.durations_s)} against {len(denominator.durations_s)}"
        raise ValueError(f"samples of different rounds: {counts}")
    ratios = np.sort(np.asarray(numerator.durations_s) / np.asarray(denominator.durations_s))
    low, high = _median_interval(ratios)
    flags = [*summarize(numerator).flags, *summarize(denominator).flags]
    return Ratio(median=float(np.median(ratios)), low=low, high=high, flags=list(dict.fromkeys(flags)))


def _quantile(ordered: Array, part: float) -> float:
    """As `np.percentile`, whose own checks take fifty times as long for ten numbers."""
    place = part * (ordered.size - 1)
    low = int(place)
    first, second = float(ordered[low]), float(ordered[min(low + 1, ordered.size - 1)])
    return first + (second - first) * (place - low)


def _median_interval(ordered: Array) -> tuple[float | None, float | None]:
    """Ends of the narrowest symmetric interval of order statistics with 99 % coverage; None if none has it."""
    num = ordered.size
    rank = _interval_rank(num)
    return (float(ordered[rank - 1]), float(ordered[num - rank])) if rank else (None, None)


@functools.cache
def _interval_rank(num: int) -> int:
    """Rank of the interval's lower end among `num` samples; 0 where none has the coverage."""
    below = np.arange(num // 2)
    # log C(n, k) by its recurrence: the binomials themselves overflow a float beyond n = 1029.
    log_binomials = np.concatenate([[0.0], np.cumsum(np.log((num - below) / (below + 1)))])
    tail = np.cumsum(np.exp(log_binomials - num * math.log(2)))
    return int(np.searchsorted(tail, (1 - CONFIDENCE) / 2, side="right"))


def _num_outliers(durations: Array, quartile1: float, quartile3: float) -> int:
    fence = 1.5 * (quartile3 - quartile1)
    return int(np.count_nonzero((durations < quartile1 - fence) | (durations > quartile3 + fence)))
