"""A verdict about times: significant and large, a number a run or a ratio a round, none where the machine was busy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from runner.records.timing import Samples
from runner.report.compare import summary, times
from runner.report.compare.pairing import How, Pair
from runner.report.compare.times import Group, Pace
from tests.report.test_pairing import entry

PACES = (("mlp", 0.5, Pace.faster), ("gru", 2.0, Pace.slower))
SPREAD = [0.97, 0.98, 0.99, 1.0, 1.005, 1.01, 1.02, 1.03]


def group(a: list[float], b: list[float], *, flags: tuple[str, ...] = (), **settings) -> Group:
    """Pairs with these medians."""
    pairs = [
        Pair(
            a=dataclasses.replace(entry(num, seed=num), apply_s=one, apply_flags=flags),
            b=dataclasses.replace(entry(num, seed=num, **settings), apply_s=two),
            how=How.result_id,
        )
        for num, (one, two) in enumerate(zip(a, b, strict=True))
    ]
    return Group(label="linear", pairs=pairs)


def scaled(factor: float, values: list[float] = SPREAD) -> list[float]:
    return [factor * value for value in values]


@pytest.mark.parametrize(
    ("factor", "pace"),
    [(1.0, Pace.same), (1.08, Pace.same), (1.12, Pace.slower), (1.5, Pace.slower), (1 / 1.12, Pace.faster)],
)
def test_verdicts_need_significant_and_large_differences(factor, pace):
    (row,) = times.from_records([group(SPREAD, scaled(factor))])
    assert (row.pace, row.why) == (pace, "")
    assert row.ratio == pytest.approx(factor)


def test_programs_get_median_interval_and_count():
    (row,) = times.from_records([group(SPREAD, scaled(2))])
    assert (row.a.num, row.a.median, row.a.low, row.a.high) == (8, 1.0025, 0.97, 1.03)
    assert row.p < 0.001


@pytest.mark.parametrize(("num", "pace"), [(1, Pace.unclear), (6, Pace.unclear), (7, Pace.slower)])
def test_few_runs_are_inconclusive(num, pace):
    (row,) = times.from_records([group(SPREAD[:num], scaled(10, SPREAD[:num]))])
    assert (row.pace, row.why) == (
        pace,
        f"{num} run{'s' * (num > 1)} a side can't tell: p < 0.002 takes 7 seeds" if num < 7 else "",
    )


def test_few_runs_of_many_programs_suffice():
    *rows, together = times.from_records(
        [group([one, 1.01 * one], [1.2 * one, 1.3 * one]) for one in (1.0, 5.0, 9.0, 20.0)]
    )
    assert {row.pace for row in rows} == {Pace.unclear}
    assert (together.program, together.pace) == ("all 4 programs", Pace.slower)
    assert together.ratio == pytest.approx(1.25 / 1.005)


def test_large_but_insignificant_differences_are_unclear():
    (row,) = times.from_records([group(SPREAD, scaled(1.2, SPREAD[:4]) + SPREAD[:2] + scaled(1.2, SPREAD[:2]))])
    assert (row.pace, row.why) == (Pace.unclear, "it may be chance")


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (group(SPREAD, scaled(2), flags=("short", "loaded")), "A was timed on a busy machine"),
        (group(SPREAD, scaled(2), flags=("contended",)), "A was timed on a busy machine"),
        (group(scaled(1, [0.8, 0.8, 0.9, 0.9, 1, 1.1, 1.1, 1.2]), scaled(3)), "the runs of A lie more than 10 % apart"),
        (group(SPREAD, scaled(2), timing__mode="careful"), "timed in two ways: timing.mode"),
    ],
)
def test_unreliable_times_give_no_verdict(made, why):
    (row,) = times.from_records([made])
    assert (row.pace, row.why) == (Pace.unclear, why)


def test_few_flagged_runs_are_tolerated():
    marked = dataclasses.replace(
        group(SPREAD, scaled(2)).pairs[0], a=dataclasses.replace(entry(), apply_s=1.0, apply_flags=("loaded",))
    )
    (row,) = times.from_records([Group(label="linear", pairs=[marked, *group(SPREAD, scaled(2)).pairs[1:]])])
    assert (row.pace, row.a_flags) == (Pace.slower, {"loaded": 1})


def test_many_programs_need_stronger_evidence():
    assert times.from_records([group(SPREAD[:7], scaled(2, SPREAD[:7]))] * 16)[0].pace is Pace.slower
    assert (
        times.from_records([group(SPREAD[:7], scaled(2, SPREAD[:7]))] * 17)[0].why
        == "7 runs a side can't tell: p < 0.00056 takes 8 seeds"
    )
    assert times.from_records([group(SPREAD[:7], scaled(2, SPREAD[:7]))] * 18)[0].why.endswith("takes 8 seeds")


def test_untimed_runs_have_no_times():
    (row,) = times.from_records([Group(label="linear", pairs=[Pair(a=entry(), b=entry(), how=How.result_id)])])
    assert (row.pace, row.a, row.ratio) == (Pace.untimed, None, None)


def test_pairs_group_by_program_without_failures():
    def program(num: int, name: str, status: str = "done", **settings) -> Pair:
        one = dataclasses.replace(entry(num, seed=num, **settings), program_id=name, status=status)
        return Pair(a=one, b=one, how=How.result_id)

    pairs = [
        program(0, "p", features=4),
        program(1, "p", features=4),
        program(2, "q", features=8),
        program(3, "r", "failed"),
    ]
    assert [(one.label, len(one.pairs)) for one in times.groups(pairs)] == [("features=4", 2), ("features=8", 1)]
    assert [one.label for one in times.groups(pairs[:2])] == ["linear"]
    failed = dataclasses.replace(pairs[0].b, status="failed")
    assert times.groups([dataclasses.replace(pairs[0], b=failed), dataclasses.replace(pairs[1], a=failed)]) == []


def test_busy_programs_are_left_out():
    quiet = [group(SPREAD, scaled(1.5)) for _ in range(2)]
    busy = group(SPREAD, scaled(0.2), flags=("loaded",))
    *_, together = times.from_records([*quiet, busy])
    assert (together.together, together.pace, round(together.ratio, 3)) == (True, Pace.slower, 1.5)


def test_layer_settings_label_programs():
    def program(name: str, **settings) -> Pair:
        one = dataclasses.replace(entry(**settings), program_id=name)
        return Pair(a=one, b=one, how=How.result_id)

    hidden = [program(str(size), layer__kwargs__hidden=size) for size in (8, 16)]
    assert [one.label for one in times.groups(hidden)] == ["layer.kwargs.hidden=8", "layer.kwargs.hidden=16"]
    both = [
        program(f"{size} {hidden}", input_shape=[size], layer__kwargs__size=size, layer__kwargs__hidden=hidden)
        for size, hidden in ((4, 8), (4, 16), (8, 8))
    ]
    labels = ["input_shape=[4] layer.kwargs.hidden=8", "input_shape=[4] layer.kwargs.hidden=16"]
    assert [one.label for one in times.groups(both)][:2] == labels
    sources = [program("old"), program("new")]
    assert [one.label for one in times.groups(sources)] == ["linear (1)", "linear (2)"]


def rounds(a: np.ndarray, b: np.ndarray) -> tuple[Samples, Samples]:
    return Samples(durations_s=a.ravel().tolist()), Samples(durations_s=b.ravel().tolist())


def test_interleaved_rounds_see_through_load():
    generator = np.random.default_rng(0)
    load = generator.uniform(1, 4, (20, 1))
    a, b = load * (1 + generator.exponential(0.2, (20, 10))), 1.2 * load * (1 + generator.exponential(0.2, (20, 10)))
    (row,) = times.from_rounds({"linear": rounds(a, b)}, 20)
    assert (row.pace, row.a.num) == (Pace.slower, 20)
    assert row.low < 1.2 < row.high
    # The same numbers without their rounds: the load is larger than the slowdown.
    assert times.from_records([group(a.min(axis=1).tolist(), b.min(axis=1).tolist())])[0].pace is Pace.unclear


def test_equal_interleaved_sides_are_the_same():
    calls = np.random.default_rng(1).exponential(1, (2, 20, 10)) + 5
    (row,) = times.from_rounds({"linear": rounds(*calls)}, 20)
    assert (row.pace, row.why) == (Pace.same, "")


def test_inconclusive_rounds_are_unclear():
    sides = rounds(np.full((10, 2), 1.0), np.linspace(2, 3, 20).reshape(10, 2))
    assert times.from_rounds({"linear": sides}, 10)[0].pace is Pace.slower
    rows = times.from_rounds({str(number): sides for number in range(6)}, 10)
    assert {(row.pace, row.why) for row in rows} == {(Pace.unclear, "10 rounds can't tell: p < 0.0017 takes 11")}


def test_limits_of_a_verdict_are_inclusive():
    ones, more = [1.0] * 8, [1.1] * 8
    assert times.from_records([group(ones, more)])[0].pace is Pace.slower
    assert times.from_records([group(ones, [1.099] * 8)])[0].pace is Pace.same
    assert times.from_records([group(more, ones)])[0].pace is Pace.faster
    # The quartiles of A lie exactly 10 % of its median apart.
    wide = [9.0, 9.0, 9.5, 9.5, 10.0, 10.5, 10.5, 11.0, 11.0]
    assert times.from_records([group(wide, scaled(2, wide))])[0].pace is Pace.slower


@pytest.mark.parametrize(("num_busy", "pace"), [(4, Pace.slower), (5, Pace.unclear)])
def test_half_of_the_runs_may_be_busy(num_busy, pace):
    pairs = group(SPREAD, scaled(2)).pairs
    busy = [
        dataclasses.replace(one, b=dataclasses.replace(one.b, apply_flags=("loaded", "short")))
        for one in pairs[:num_busy]
    ]
    (row,) = times.from_records([Group(label="linear", pairs=[*busy, *pairs[num_busy:]])])
    assert (row.pace, row.why) == (pace, "B was timed on a busy machine" if pace is Pace.unclear else "")


@pytest.mark.parametrize(
    ("together", "alone", "is_settled"),
    [(Pace.slower, Pace.unclear, True), (Pace.unclear, Pace.slower, False), (Pace.unclear, Pace.unclear, False)],
)
def test_only_a_verdict_over_all_settles(together, alone, is_settled):
    single = times.Times(program="gru", ratio=2.0, pace=alone)
    assert summary._settled([times.Times(program="all", pace=together, together=True), single]) is is_settled


def test_slower_programs_are_named_first():
    faster, slower = (times.Times(program=name, ratio=ratio, pace=pace) for name, ratio, pace in PACES)
    for one in ([faster, slower], [slower, faster]):
        assert summary._times(one).startswith("slower: gru by 2.00 ×; faster: mlp by ")
