"""Statistics of timing samples: location, spread, flags, ratios and rank tests."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from runner.records.timing import Aggregate, Ratio, Samples, Summary

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.99
MAX_SPREAD = 0.1  # σ relative to the mean, and interquartile range relative to the median
MIN_SAMPLE_S = 1e-3  # below it, the overhead of the clock and the call itself is noticeable


def summarize(
    samples: Samples,
    *,
    load_average: float | None = None,
    num_cores: int | None = None,
    contended: bool = False,
    shared: bool = False,
    debugging: bool = False,
) -> Summary:
    """Median with its interval, spread, and flags of `samples`; outliers are counted, and included in every number.

    The interval of the median lies between two order statistics whose ranks come from the binomial distribution: it
    assumes nothing about the shape of the distribution (W. J. Conover, Practical Nonparametric Statistics, 3rd ed.,
    1999, section 3.2). It covers the median with a probability of at least 99 %, which takes 8 samples. Quartiles are
    interpolated linearly; outliers lie more than 1.5 interquartile ranges outside them (Tukey's fences).

    Args:
      samples: At least one duration, in seconds per call.
      load_average: Load average when they were taken; None if the system has none.
      num_cores: Cores that the process may use; None skips the load check.
      contended: Whether other work of this program ran concurrently.
      shared: Whether other processes used the same GPU.
      debugging: Whether settings of JAX for debugging were on.

    Returns:
      Seconds per call. The standard deviation (n - 1 in the denominator) of one sample is 0. Flags, in fixed order:
      `spread` (σ is 10 % of the mean or more), `iqr` (the interquartile range is above 10 % of the median), `short` (a
      call under 1 ms timed by itself), `loaded` (load average above the cores), `contended`, `shared`,
      `debugging`.

    Raises:
      ValueError: There are no samples.
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
        "debugging": debugging,
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
    """Ratio of two quantities' times, round by round, so that drift affects both alike.

    Args:
      numerator: Samples of interleaved rounds.
      denominator: Samples of the same rounds.

    Raises:
      ValueError: They are not from the same rounds.
    """
    if len(numerator.durations_s) != len(denominator.durations_s):
        counts = f"{len(numerator.durations_s)} against {len(denominator.durations_s)}"
        raise ValueError(f"samples of different rounds: {counts}")
    ratios = np.sort(np.asarray(numerator.durations_s) / np.asarray(denominator.durations_s))
    low, high = _median_interval(ratios)
    flags = [*summarize(numerator).flags, *summarize(denominator).flags]
    return Ratio(median=float(np.median(ratios)), low=low, high=high, flags=list(dict.fromkeys(flags)))


def aggregate(values: Iterable[float | None]) -> Aggregate | None:
    """Median, with its interval, of one number per run; None if no run has it.

    Args:
      values: One per run; None or NaN where a run has no such number.
    """
    ordered = np.sort(np.array([value for value in values if value is not None and value == value], dtype=np.float64))
    if not ordered.size:
        return None
    low, high = _median_interval(ordered)
    return Aggregate(num=ordered.size, median=_quantile(ordered, 0.5), low=low, high=high)


def relative_iqr(values: Sequence[float]) -> float:
    """The interquartile range of `values` relative to their median."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return (_quantile(ordered, 0.75) - _quantile(ordered, 0.25)) / _quantile(ordered, 0.5)


def fastest_of_blocks(samples: Samples, num_blocks: int) -> list[float]:
    """The shortest duration in each of `num_blocks` equal blocks of `samples`, in seconds per call.

    Noise only ever makes a call slower, so the minimum of several is the most stable estimate on a shared
    machine (J. Chen, J. Revels, Robust benchmarking in noisy environments, 2016, https://arxiv.org/abs/1608.04295).
    """
    blocks: list[float] = np.min(np.reshape(samples.durations_s, (num_blocks, -1)), axis=1).tolist()
    return blocks


def rank_test(one: Sequence[float], two: Sequence[float]) -> float:
    """Two-sided p of the Mann–Whitney test: how rarely two samples of one distribution differ this much.

    All values must be independent: medians of runs are, samples of one run are not.
    """
    import scipy.stats

    return float(scipy.stats.mannwhitneyu(one, two).pvalue)


def stratified_rank_test(strata: Iterable[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Two-sided p of van Elteren's test: Mann–Whitney stratified by program, each ranked separately.

    P. H. van Elteren, On the combination of independent two sample tests of Wilcoxon, Bulletin of the International
    Statistical Institute 37, 1960. Uses the normal approximation, with the variance corrected for ties.
    """
    import scipy.stats

    distance, variance = 0.0, 0.0
    for one, two in strata:
        num = len(one) + len(two)
        ranks = scipy.stats.rankdata([*one, *two]) - (num + 1) / 2
        distance += float(ranks[len(one) :].sum()) / (num + 1)
        variance += len(one) * len(two) * float(np.square(ranks).sum()) / (num * (num - 1) * (num + 1) ** 2)
    return math.erfc(abs(distance) / math.sqrt(2 * variance)) if variance else 1.0


def signed_rank_test(ratios: Sequence[float]) -> float:
    """Two-sided p of the Wilcoxon signed-rank test: how rarely ratios of equals, one per round, lie this far from 1."""
    import scipy.stats

    logs = np.log(np.asarray(ratios, dtype=np.float64))
    return float(scipy.stats.wilcoxon(logs).pvalue) if logs.any() else 1.0


def smallest_p(strata: Iterable[tuple[int, int]]) -> float:
    """The smallest two-sided p that a rank test can reach with these sample sizes."""
    return 2 / math.prod(math.comb(one + two, one) for one, two in strata)


def _quantile(ordered: Array, part: float) -> float:
    """Like `np.percentile`, whose input checks take fifty times as long for ten numbers."""
    place = part * (ordered.size - 1)
    low = int(place)
    first, second = float(ordered[low]), float(ordered[min(low + 1, ordered.size - 1)])
    return first + (second - first) * (place - low)


def _median_interval(ordered: Array) -> tuple[float | None, float | None]:
    """Bounds of the narrowest symmetric interval of order statistics with 99 % coverage; None if none has it."""
    num = ordered.size
    rank = _interval_rank(num)
    return (float(ordered[rank - 1]), float(ordered[num - rank])) if rank else (None, None)


@functools.cache
def _interval_rank(num: int) -> int:
    """Rank of the interval's lower end among `num` samples; 0 if no interval has the coverage."""
    below = np.arange(num // 2)
    # log C(n, k) by recurrence: the binomials themselves overflow a float beyond n = 1029.
    log_binomials = np.concatenate([[0.0], np.cumsum(np.log((num - below) / (below + 1)))])
    tail = np.cumsum(np.exp(log_binomials - num * math.log(2)))
    return int(np.searchsorted(tail, (1 - CONFIDENCE) / 2, side="right"))


def _num_outliers(durations: Array, quartile1: float, quartile3: float) -> int:
    fence = 1.5 * (quartile3 - quartile1)
    return int(np.count_nonzero((durations < quartile1 - fence) | (durations > quartile3 + fence)))
