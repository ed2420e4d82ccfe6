"""Samples in, numbers and flags out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runner.records.timing import Samples, Summary
from runner.timing import stats
from runner.timing.stats import pairwise_ratio, summarize


@pytest.fixture
def scipy_stats() -> Any:
    from scipy import stats  # takes a second, and not every worker has these tests

    return stats


def summary_of(durations_s: list[float], num_calls: int = 1, **kwargs: Any) -> Summary:
    return summarize(Samples(durations_s=durations_s, num_calls=num_calls), **kwargs)


def test_summary_matches_a_hand_calculation() -> None:
    summary = summary_of([4.0, 1.0, 2.0, 9.0, 3.0])
    assert (summary.num_samples, summary.min_s, summary.median_s, summary.max_s) == (5, 1.0, 3.0, 9.0)
    assert (summary.quartile1_s, summary.quartile3_s) == (2.0, 4.0)
    assert summary.mean_s == pytest.approx(3.8)
    assert summary.std_s == pytest.approx((38.8 / 4) ** 0.5)
    assert summary.mad_s == 1.0  # distances from 3: 1, 2, 1, 6, 0


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples: a summary needs at least one duration"):
        summary_of([])


def test_one_sample_has_no_interval() -> None:
    summary = summary_of([0.5])
    assert (summary.median_s, summary.std_s, summary.mad_s, summary.flags) == (0.5, 0.0, 0.0, [])
    assert (summary.median_low_s, summary.median_high_s) == (None, None)


@pytest.mark.parametrize("num", [8, 9, 10, 11, 20, 30, 101, 1500])
def test_median_interval_is_the_narrowest_possible(num: int, scipy_stats: Any) -> None:
    summary = summary_of([float(rank) for rank in range(num, 0, -1)])
    assert summary.median_low_s is not None
    rank = int(summary.median_low_s)
    assert summary.median_high_s == num + 1 - rank
    assert 1 - 2 * scipy_stats.binom.cdf(rank - 1, num, 0.5) >= 0.99
    assert 1 - 2 * scipy_stats.binom.cdf(rank, num, 0.5) < 0.99


def test_median_interval_equals_scipy(scipy_stats: Any) -> None:
    durations = np.random.default_rng(0).gamma(2.0, size=57)
    expected = scipy_stats.quantile_test(durations, p=0.5).confidence_interval(confidence_level=0.99)
    summary = summary_of(durations.tolist())
    assert (summary.median_low_s, summary.median_high_s) == (expected.low, expected.high)


@pytest.mark.parametrize(("num", "known"), [(1, False), (2, False), (7, False), (8, True)])
def test_an_interval_takes_eight_samples(num: int, known: bool) -> None:
    summary = summary_of([1.0] * num)
    assert (summary.median_low_s is not None) is known
    assert (summary.median_high_s is not None) is known


@pytest.mark.parametrize(
    ("last", "num_outliers"),
    [(5.0, 0), (7.0, 0), (7.001, 1), (-1.0, 0), (-1.001, 1)],  # quartiles 2 and 4, fences -1 and 7
)
def test_outliers_are_counted_and_kept(last: float, num_outliers: int) -> None:
    durations = [2.0, 2.0, 3.0, 4.0, 4.0, 2.0, 4.0, 3.0, last]
    summary = summary_of(durations)
    assert summary.num_outliers == num_outliers
    assert summary.num_samples == len(durations)
    assert last in (summary.min_s, summary.max_s)


@pytest.mark.parametrize(
    ("durations_s", "kwargs", "flags"),
    [
        ([1.0] * 9, {}, []),
        ([9.0, 10.0, 11.0], {}, ["spread"]),  # σ is 10 % of the mean, the interquartile range 10 % of the median
        ([9.1, 10.0, 10.9], {}, []),
        ([1.0] * 9 + [2.0], {}, ["spread"]),
        ([0.94] * 8 + [1.06] * 8, {}, ["iqr"]),
        ([0.96] * 8 + [1.04] * 8, {}, []),
        ([9e-4] * 3, {}, ["short"]),
        ([9e-4, *[1.01e-3] * 11], {}, ["short"]),  # by the shortest sample
        ([9e-4] * 3, {"num_calls": 2}, []),
        ([1e-3] * 3, {}, []),
        ([1.0], {"load_average": 2.1, "num_cores": 2}, ["loaded"]),
        ([1.0], {"load_average": 2.0, "num_cores": 2}, []),
        ([1.0], {"load_average": 2.1}, []),
        ([1.0], {"num_cores": 2}, []),
        ([1.0], {"contended": True}, ["contended"]),
        ([1.0], {"shared": True}, ["shared"]),
        ([1.0], {"debugging": True}, ["debugging"]),
        (
            [1e-4, 2e-4, 9e-4],
            {"contended": True, "load_average": 9.0, "num_cores": 1},
            ["spread", "iqr", "short", "loaded", "contended"],
        ),
    ],
)
def test_flags_follow_their_rules(durations_s: list[float], kwargs: dict[str, Any], flags: list[str]) -> None:
    assert summary_of(durations_s, **kwargs).flags == flags


def test_paired_ratios_ignore_drift() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
    ratio = pairwise_ratio(Samples(durations_s=[3 * one for one in drift]), Samples(durations_s=drift))
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 3.0, 3.0)
    assert ratio.flags == ["spread", "iqr"]


def test_few_rounds_give_no_ratio_interval() -> None:
    ratio = pairwise_ratio(Samples(durations_s=[2.0, 2.0, 2.0]), Samples(durations_s=[1.0, 1.0, 4.0]))
    assert (ratio.median, ratio.low, ratio.high) == (2.0, None, None)


def test_unequal_rounds_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="samples of different rounds: 1 against 2"):
        pairwise_ratio(Samples(durations_s=[1.0]), Samples(durations_s=[1.0, 2.0]))


def test_ratios_are_flagged_for_either_side() -> None:
    calm, short = Samples(durations_s=[1.0] * 3), Samples(durations_s=[5e-4] * 3)
    assert pairwise_ratio(calm, calm).flags == []
    assert pairwise_ratio(short, calm).flags == pairwise_ratio(calm, short).flags == ["short"]


def test_the_spread_is_relative_to_the_median() -> None:
    values = [30.0, 10.0, 11.0, 9.0, 8.0]
    assert stats.relative_iqr(values) == stats.relative_iqr(sorted(values)) == 0.2


def test_aggregates_skip_missing_numbers() -> None:
    found = stats.aggregate([3.0, None, 1.0, float("nan"), 2.0])
    assert found is not None
    assert (found.num, found.median, found.low, found.high) == (3, 2.0, None, None)
    assert stats.aggregate([None]) is None


def test_eight_runs_give_a_median_interval() -> None:
    found = stats.aggregate(float(number) for number in range(8))
    assert found is not None
    assert (found.median, found.low, found.high) == (3.5, 0.0, 7.0)


def test_fastest_call_represents_each_block() -> None:
    samples = Samples(durations_s=[5.0, 3.0, 4.0, 1.0, 9.0, 2.0])
    assert stats.fastest_of_blocks(samples, 2) == [3.0, 1.0]


def test_single_stratum_equals_mann_whitney(scipy_stats: Any) -> None:
    generator = np.random.default_rng(0)
    one, two = generator.integers(0, 20, 40).tolist(), generator.integers(4, 24, 30).tolist()
    known = scipy_stats.mannwhitneyu(one, two, use_continuity=False, method="asymptotic").pvalue
    assert stats.stratified_rank_test([(one, two)]) == pytest.approx(known)


def test_combined_programs_reach_significance() -> None:
    strata = [([10.0**place, 1.1 * 10**place], [2 * 10.0**place, 2.1 * 10**place]) for place in range(6)]
    assert min(stats.rank_test(*both) for both in strata) > 0.3
    assert stats.stratified_rank_test(strata) < 0.001
    assert (
        stats.stratified_rank_test([(two, one) if place % 2 else (one, two) for place, (one, two) in enumerate(strata)])
        == 1
    )


def test_equal_numbers_are_no_difference() -> None:
    assert stats.rank_test([1.0] * 8, [1.0] * 8) == 1
    assert stats.stratified_rank_test([([1.0] * 8, [1.0] * 8)]) == 1
    assert stats.signed_rank_test([1.0] * 12) == 1


@pytest.mark.parametrize(("num", "least"), [(6, 2 / 924), (7, 2 / 3432)])
def test_disjoint_samples_give_the_smallest_p(num: int, least: float) -> None:
    one = [float(number) for number in range(num)]
    assert stats.rank_test(one, [number + num for number in one]) == pytest.approx(least)
    assert stats.smallest_p([(num, num)]) == pytest.approx(least)


def test_ten_rounds_suffice_for_significance() -> None:
    assert stats.signed_rank_test([1.0 + number / 100 for number in range(1, 11)]) == pytest.approx(2**-9)
    assert stats.signed_rank_test([1.0 + number / 100 for number in range(1, 10)]) == pytest.approx(2**-8)
