"""What runs a sweep is loaded once, and a large sweep's writers begin to load before it."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from runner.launch import loading
from runner.sweep.writing.writers import MIN_SENT_RUNS
from runner.tracking import preloading

STARTED = """
import multiprocessing.forkserver, sys
from runner.launch import loading

loading.preload_writers(int(sys.argv[1]), {"name": "wandb", "mode": sys.argv[2]})
server = multiprocessing.forkserver._forkserver
print(server._forkserver_pid is not None, "wandb" in server._preload_modules)
"""

REFUSED = """
import multiprocessing.forkserver, sys
from runner.commands import main
code = main.main(sys.argv[1:])
server = multiprocessing.forkserver._forkserver
print(code, "jax" in sys.modules, server._forkserver_pid is not None, "wandb" in server._preload_modules)
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

BESIDE = """
import os
from runner.tracking import processes

workers = processes.Processes(1)
one = workers.beside()
one.need([], os.getpid)
workers.need(["wave"], os.getpid)
workers.start()
ask = "'wave' in __import__('sys').modules, __import__('os').getpid()"
(first, pid), (second, other) = [each.submit(eval, ask).result(timeout=60) for each in (workers, one)]
workers.close()
one.close()
print(first, second, pid != other)
"""

INTERRUPTED = """
import os, signal, sys, threading
from runner.launch import loading

threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    loading.load()
except KeyboardInterrupt:
    print("runner.tracking.pool" in sys.modules, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""

SPARED = """
import os, signal, time
from runner.tracking import processes

signal.signal(signal.SIGINT, lambda *_: None)
processes.preload(["wave"])
for _ in range(20):
    time.sleep(0.02)
    os.killpg(0, signal.SIGINT)
workers = processes.Processes(1)
workers.need(["wave"], os.getpid)
workers.start()
print(workers.submit(eval, "'wave' in __import__('sys').modules").result(timeout=60))
workers.close()
"""


def printed(code: str, *words: str) -> str:
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, start_new_session=True)
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()[-1]


def test_loading_leaves_the_collector_on():
    loading.load()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_ctrl_c_waits_until_all_is_loaded():
    assert printed(INTERRUPTED) == "True True"


def test_ctrl_c_spares_what_is_preloaded():
    assert printed(SPARED) == "True"


@pytest.mark.parametrize(("modules", "found"), [(["wave"], "True"), (["chunk"], "False")])
def test_modules_are_preloaded_before_start(modules, found):
    assert printed(PRELOADED, *modules) == found


def test_a_process_beside_imports_what_the_others_do():
    assert printed(BESIDE) == "True True True"


@pytest.mark.parametrize(
    ("num_runs", "mode", "starts"),
    [
        (MIN_SENT_RUNS, "offline", "True True"),
        (MIN_SENT_RUNS, "disabled", "True False"),
        (MIN_SENT_RUNS - 1, "offline", "False False"),
    ],
)
def test_writers_of_large_sweeps_start_early(num_runs, mode, starts):
    assert printed(STARTED, str(num_runs), mode) == starts


@pytest.mark.parametrize(
    ("tracking", "environ", "uses"),
    [
        ({"name": "wandb", "mode": "auto"}, {}, True),
        ({"name": "wandb", "mode": "auto"}, {"WANDB_MODE": "disabled"}, False),
        ({"name": "wandb", "mode": "auto"}, {"WANDB_MODE": "loud"}, False),
        ({"name": "tensorboard", "mode": "auto"}, {}, False),
    ],
)
def test_what_uses_wandb_is_known_before_it_is_imported(tracking, environ, uses, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert preloading.uses_wandb(tracking) == uses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "starts"),
    [
        (["-m"], "True True"),
        (["-m", "tracking=disabled"], "True False"),
        (["-m", "tracking=tensorboard"], "True False"),
        (["plan", "-m"], "False False"),
    ],
)
def test_only_what_runs_starts_writers(words, starts, tmp_path):
    swept = [f"seed=range(0,{MIN_SENT_RUNS})", "features=0", f"output_root={tmp_path}"]
    assert printed(REFUSED, *words, *swept) == f"2 True {starts}"
