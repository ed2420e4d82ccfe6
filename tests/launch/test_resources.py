"""What processes of one machine share: turns at measuring, cores, cards. Real processes, real locks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.commands import main
from runner.launch import resources
from runner.launch.resources import Turns
from runner.records import store
from runner.records.paths import RunFolder

WORK = """
with resources.Turns(folder).working():
    print("works", flush=True)
    sys.stdin.readline()
"""
MEASURE = """
turns = resources.Turns(folder)
with turns.working():
    print(turns.measured(lambda: print("measures", flush=True) or sys.stdin.readline(), wait=True), flush=True)
"""
CORES = """
resources.keep_to_cores(1, folder)
resources.keep_to_cores(1, folder)
print(sorted(os.sched_getaffinity(0)), resources.cores_to_share(), flush=True)
sys.stdin.readline()
"""
CARD = """
with resources.card(folder) as name:
    print(name, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def beside(code: str, folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs `code`, and goes on at a line."""
    folder.mkdir(exist_ok=True)
    head = "import os, sys\nfrom pathlib import Path\nfrom runner.launch import resources\nfolder = Path(sys.argv[1])\n"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", head + code, str(folder)]
    with subprocess.Popen(command, env=os.environ | environment, **pipes) as process:
        yield process
        with contextlib.suppress(BrokenPipeError):
            process.communicate("\n" * 3)


def said(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().rstrip("\n")


def go_on(process: subprocess.Popen[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def test_the_locks_are_in_the_machines_temporary_folder_or_where_a_variable_says(monkeypatch):
    monkeypatch.setenv("BRIDGE_RUNNER_LOCKS", "/dev/shm/mine")
    assert resources.default_folder() == Path("/dev/shm/mine")
    monkeypatch.delenv("BRIDGE_RUNNER_LOCKS")
    assert resources.default_folder() == Path(tempfile.gettempdir()) / f"bridge-runner-{os.getuid()}"


def test_a_time_is_taken_when_no_other_process_works(tmp_path):
    turns = Turns(tmp_path)
    with turns.working():
        assert turns.measured(lambda: 7, wait=True) == (7, False)
        assert turns.measured(lambda: 7, wait=False) == (7, False)


def test_two_that_measure_take_turns_and_neither_is_contended(tmp_path):
    with beside(MEASURE, tmp_path) as first:
        assert said(first) == "measures"
        with beside(MEASURE, tmp_path) as second:
            go_on(first)
            assert said(first) == "('\\n', False)"
            assert said(second) == "measures"
            go_on(second)
            assert said(second) == "('\\n', False)"


@pytest.mark.parametrize("wait", [True, False])
def test_a_time_that_is_taken_beside_other_work_says_so(wait, tmp_path):
    with beside(WORK, tmp_path) as other:
        assert said(other) == "works"
        turns = Turns(tmp_path, give_up=lambda: True)
        with turns.working():
            assert turns.measured(lambda: 7, wait=wait) == (7, True)


def test_two_processes_get_a_core_each_and_a_third_gets_none(tmp_path):
    allowed = sorted(os.sched_getaffinity(0))[:2]
    if len(allowed) < 2:
        pytest.skip("one core has nothing to divide")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only(allowed))
        three = [stack.enter_context(beside(CORES, tmp_path)) for _ in range(2)]
        assert sorted(said(one) for one in three) == [f"[{core}] 2" for core in allowed]
        assert said(stack.enter_context(beside(CORES, tmp_path))) == f"{allowed} 2"


@contextlib.contextmanager
def _only(cores: list[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    yield
    os.sched_setaffinity(0, before)


def test_a_card_is_held_by_one_process_and_handed_on(tmp_path):
    with (
        beside(CARD, tmp_path, CUDA_VISIBLE_DEVICES="3,5") as first,
        beside(CARD, tmp_path, CUDA_VISIBLE_DEVICES="5,3") as second,
    ):
        assert {said(first), said(second)} == {"3 3", "5 5"}
        with beside(CARD, tmp_path, CUDA_VISIBLE_DEVICES="3") as third:
            go_on(first)
            go_on(second)
            assert said(third) == "3 3"


def test_the_cards_of_a_machine_are_counted_where_nothing_says_which_are_seen(tmp_path, monkeypatch):
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert resources.cards(tmp_path) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert resources.cards(tmp_path) == []


def test_a_machine_without_cards_has_none_to_hold(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with resources.card(tmp_path) as name:
        assert name is None


@pytest.mark.parametrize(("turns", "flagged"), [("true", False), ("false", True)])
def test_times_beside_another_sweep_are_flagged_where_none_waits(turns, flagged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDGE_RUNNER_LOCKS", str(tmp_path / "locks"))
    with beside(WORK, tmp_path / "locks") as other:
        assert said(other) == "works"
        if not flagged:
            go_on(other)
        words = ["tracking=disabled", "checks=off", "checkpoint=none", f"timing.turns={turns}", f"sweep=turns-{turns}"]
        assert main.main(words) == 0
    (path,) = tmp_path.glob("outputs/*/runs/*")
    timing = store.read_record(RunFolder(path)).timing
    assert timing.contended is flagged
    assert ("contended" in timing.apply_latency.summary.flags) is flagged
