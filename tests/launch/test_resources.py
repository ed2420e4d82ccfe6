"""What processes of one machine share: cores and GPUs. Real processes, real locks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from other_process import beside, go_on, said

from runner.launch import resources

CORES = """
resources.keep_to_cores(1, folder)
resources.keep_to_cores(1, folder)
print(sorted(os.sched_getaffinity(0)), machine.cores_to_share(), flush=True)
sys.stdin.readline()
"""
GPU = """
with resources.gpu(folder) as name:
    print(name, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    sys.stdin.readline()
"""


def test_processes_get_separate_cores(tmp_path):
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


def test_gpus_are_exclusive_and_handed_on(tmp_path):
    with (
        beside(GPU, tmp_path, CUDA_VISIBLE_DEVICES="3,5") as first,
        beside(GPU, tmp_path, CUDA_VISIBLE_DEVICES="5,3") as second,
    ):
        assert {said(first), said(second)} == {"3 3", "5 5"}
        with beside(GPU, tmp_path, CUDA_VISIBLE_DEVICES="3") as third:
            go_on(first)
            go_on(second)
            assert said(third) == "3 3"


def test_a_wait_for_a_gpu_names_its_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "SILENT_S", 0.0)
    lines: list[str] = []
    with beside(GPU, tmp_path, CUDA_VISIBLE_DEVICES="3") as first:
        assert said(first) == "3 3"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        with resources.gpu(tmp_path, give_up=lambda: bool(lines), say=lines.append) as name:
            assert name is None
        assert lines == [f"waiting for a GPU: other processes of yours hold 3 (pid {first.pid})"]


def test_gpus_are_counted_by_default(tmp_path, monkeypatch):
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert resources.gpus(tmp_path) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert resources.gpus(tmp_path) == []


def test_machines_without_gpus_hold_none(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with resources.gpu(tmp_path) as name:
        assert name is None
