"""Which run of one side answers to which of another."""

from __future__ import annotations

import dataclasses

import pytest
from bare_record import RECORD

from runner.config.dotted_keys import flatten
from runner.config.serialize import to_data
from runner.config.settings.run import Run
from runner.records.record import Check, Verdict
from runner.report.compare import pairing
from runner.report.compare.pairing import Entry, How


def entry(num: int = 0, *, result: str | None = None, **settings) -> Entry:
    """A run whose ids are told by its settings; names of config keys with `__` for the dot."""
    values = {key.replace("__", "."): str(value) for key, value in settings.items()}
    flat = {
        key: str(value) for key, value in flatten(to_data(Run())).items() if key.split(".")[0] != "tracking"
    } | values
    result = result or str(sorted((key, value) for key, value in values.items() if not key.startswith("timing")))
    return Entry(
        label=f"{num}-x",
        run_id=f"{result} {values}",
        result_id=result,
        program_id=result,
        layer="linear",
        device="cpu:0",
        platform="cpu",
        status="done",
        settings=flat,
        output={},
        variables="",
        checks={},
        apply_s=None,
        apply_flags=(),
        machine_id="m",
        software_id="s",
    )


def paired(a: list[Entry], b: list[Entry]) -> tuple[list[tuple[str, str, How]], list[str], list[str]]:
    found = pairing.pair(a, b)
    only = [[one.label for one in side] for side in (found.only_a, found.only_b)]
    return [(one.a.label, one.b.label, one.how) for one in found.pairs], *only


def test_equal_runs_pair_in_their_order():
    a, b = [entry(0), entry(1)], [entry(2), entry(3)]
    assert paired(a, b)[0] == [("0-x", "2-x", How.result_id), ("1-x", "3-x", How.result_id)]


def test_skipped_checks_are_no_change():
    verdicts = {"parity": Verdict.skipped, "used": Verdict.passed}
    checks = [Check(name=name, verdict=verdict, detail="") for name, verdict in verdicts.items()]
    assert pairing.entry_of(dataclasses.replace(RECORD, checks=checks)).checks == {"used": "pass"}


def test_equal_result_ids_pair_unordered():
    a = [entry(num, seed=num) for num in range(3)]
    b = [entry(num, seed=2 - num) for num in range(3)]
    pairs = [("0-x", "2-x", How.result_id), ("1-x", "1-x", How.result_id), ("2-x", "0-x", How.result_id)]
    assert paired(a, b) == (pairs, [], [])


def test_pairs_share_their_timing_mode():
    a = [entry(0, timing__mode="quick"), entry(1, timing__mode="careful")]
    b = [entry(0, timing__mode="careful"), entry(1, timing__mode="off")]
    assert paired(a, b) == ([("0-x", "1-x", How.result_id), ("1-x", "0-x", How.result_id)], [], [])


def test_unpaired_runs_are_named():
    pairs, only_a, only_b = paired([entry(0, seed=0), entry(1, seed=1)], [entry(0, seed=1), entry(1, seed=2)])
    assert (pairs, only_a, only_b) == ([("1-x", "0-x", How.result_id)], ["0-x"], ["1-x"])


def test_changed_sources_pair_by_settings():
    a = [entry(num, result=f"old {num}", seed=num) for num in range(2)]
    b = [entry(num, result=f"new {num}", seed=num, checkpoint__writer="none") for num in range(2)]
    assert paired(a, b)[0] == [("0-x", "0-x", How.settings), ("1-x", "1-x", How.settings)]


def test_differing_sides_pair_by_shared_settings():
    a = [entry(num, seed=num, layer__target="one") for num in range(3)]
    b = [entry(num, seed=num, layer__target="two", layer__kwargs__hidden=8) for num in range(1, 4)]
    pairs, only_a, only_b = paired(a, b)
    assert pairs == [("1-x", "1-x", How.other_settings), ("2-x", "2-x", How.other_settings)]
    assert (only_a, only_b) == (["0-x"], ["3-x"])


def test_partial_matches_exclude_looser_pairing():
    a, b = [entry(0, features=8), entry(1, features=16)], [entry(0, features=16), entry(1, features=32)]
    assert paired(a, b) == ([("1-x", "0-x", How.result_id)], ["0-x"], ["1-x"])


def test_ambiguous_runs_stay_unpaired():
    a = [entry(num, layer__target=name) for num, name in enumerate(["one", "two"])]
    b = [entry(num, layer__target=name) for num, name in enumerate(["three", "four"])]
    assert paired(a, b) == ([], ["0-x", "1-x"], ["0-x", "1-x"])


def test_keys_on_one_side_differ():
    assert pairing.differing({"a": "1", "b": "2"}, {"b": "2", "c": "3"}) == {"a": ("1", "–"), "c": ("–", "3")}


@pytest.mark.parametrize(("key", "varies"), [("seed", True), ("timing.mode", False), ("layer.kwargs.hidden", True)])
def test_only_result_settings_count_as_varied(key, varies):
    one = entry(timing__mode="quick", seed=0, layer__kwargs__hidden=4)
    two = dataclasses.replace(entry(timing__mode="careful", seed=1))
    assert (key in pairing.varied([one, two])) is varies


@pytest.mark.parametrize(
    ("key", "one", "two", "how"),
    [
        ("process.num_cpu_devices", 1, 8, How.settings),
        ("checks.mode", "strict", "off", How.settings),
        ("timing.rounds", 10, 30, How.settings),
        ("checkpoint.writer", "orbax", "none", How.settings),
        ("input.dtype", "float32", "bfloat16", None),
    ],
)
def test_other_results_of_like_settings_pair(key, one, two, how):
    sides = [[entry(0, result=f"{value}", **{key.replace(".", "__"): value}), entry(1)] for value in (one, two)]
    found = {(a, b): of for a, b, of in paired(*sides)[0]}
    assert found == {("1-x", "1-x"): How.result_id} | ({("0-x", "0-x"): how} if how else {})


@pytest.mark.parametrize(
    ("group", "key", "is_of_the_run"),
    [
        ("failure", "max", False),
        ("grid", "zip", False),
        ("tracking", "mode", False),
        ("process", "workers", False),
        ("process", "compilation_cache", False),
        ("process", "num_cpu_devices", True),
        ("timing", "rounds", True),
        ("input", "dtype", True),
    ],
)
def test_settings_of_the_sweep_are_not_compared(group, key, is_of_the_run):
    found = pairing.entry_of(dataclasses.replace(RECORD, settings={group: {key: 1}}))
    assert (f"{group}.{key}" in found.settings) is is_of_the_run
