"""What runs a sweep is loaded once, and a large sweep's writers begin to load before it."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from runner.launch import loading
from runner.sweep.writing.writers import MIN_SENT_RUNS

REFUSED = """
import multiprocessing.forkserver, sys
from runner.commands import main
code = main.main(sys.argv[1:])
print(code, "jax" in sys.modules, multiprocessing.forkserver._forkserver._forkserver_pid is not None)
"""

PRELOADED = """
import os, sys
from runner.tracking import processes

processes.preload(sys.argv[1:])
workers = processes.Processes(1)
workers.need(["chunk"], os.getpid)
workers.start()
print(workers.submit(eval, "'wave' in __import__('sys').modules").result(timeout=60))
workers.close()
"""


def printed(code: str, *words: str) -> str:
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.splitlines()[-1]


def test_loading_leaves_the_collector_on():
    loading.load()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


@pytest.mark.parametrize(("modules", "found"), [(["wave"], "True"), (["chunk"], "False")])
def test_modules_are_preloaded_before_start(modules, found):
    assert printed(PRELOADED, *modules) == found


@pytest.mark.parametrize(
    ("num_runs", "words", "starts"),
    [
        (MIN_SENT_RUNS, ["-m"], "True"),
        (MIN_SENT_RUNS - 1, ["-m"], "False"),
        (MIN_SENT_RUNS, ["-m", "tracking.artifacts=true"], "False"),
        (MIN_SENT_RUNS, ["plan", "-m"], "False"),
    ],
)
def test_writers_of_large_sweeps_start_early(num_runs, words, starts, tmp_path):
    swept = [f"seed=range(0,{num_runs})", "features=0", f"output_root={tmp_path}"]
    assert printed(REFUSED, *words, *swept) == f"2 True {starts}"
