"""A saved run again: the same bits, or which are not."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bare_record import RECORD
from failing_layers import LAYERS
from started_processes import Started
from swept_folder import all_files, edit_record, run, run_folder

from runner.commands import main, rerun
from runner.records.record import TrainInfo
from runner.records.timing import Phases

PHASES = Phases(trace_s=0.0, lower_s=0.0, compile_s=0.0, cache="off")
TRAINED = TrainInfo(first_step=0, losses=[1.0, 0.5], step=PHASES, steps_s=[0.5, 0.25], not_moved=[])


@pytest.fixture
def here(swept_here):
    return swept_here


def test_rerun_confirms_equal_bits(here, capsys):
    before = all_files()
    folder = run_folder("fine", 3)
    assert run(capsys, "rerun", str(folder)) == (0, f"{folder.name}: the same bits (3 arrays compared)\n", "")
    assert all_files() == before


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (lambda record: record["variables"][1].update(digest="0" * 64), "variable params/kernel: other bits"),
        (lambda record: record["variables"].pop(0), "variable params/bias: in one of them only"),
        (lambda record: record["output"][0].update(digest="0" * 64), "output y: other bits"),
        (lambda record: record["output"].append(record["output"][0] | {"path": "more"}), "output more: "),
    ],
)
def test_rerun_names_arrays_that_differ(tamper, said, here, capsys):
    folder = run_folder("fine", 0)
    edit_record(folder, tamper)
    code, out, _ = run(capsys, "rerun", str(folder))
    assert code == 4
    assert out.startswith(f"  {said}")
    assert re.search(rf"\n{folder.name}: other bits \(\d arrays compared\)\n$", out)


def test_rerun_compares_with_the_saved_output(here, capsys):
    folder = run_folder("fine", 0)
    np.save(folder / "output.npy", np.load(folder / "output.npy") + 1)
    code, out, _ = run(capsys, "rerun", str(folder))
    assert (code, out.splitlines()[-1]) == (4, f"{folder.name}: other bits (3 arrays compared)")
    assert out.startswith("  output y: ")


def trained(sweep: str, **changes: object) -> Path:
    """A run of two steps whose record then asks for others."""
    assert main.main(["train.steps=2", f"sweep={sweep}", "timing=off", "checks=off", "tracking=disabled"]) == 0
    folder = run_folder(sweep, 0)
    edit_record(folder, lambda record: record["settings"]["train"].update(changes))
    return folder


STARTED = (
    r"0-[0-9a-f]{8}: trains 1000000000 steps, about (?:\d+ days?, )?[\d:]+ at the [\d.]+ .?s a step of its record; "
)


@pytest.mark.slow
def test_endless_reruns_announce_and_stop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = trained("long", steps=10**9)
    command = [sys.executable, "-m", "runner", "rerun", str(folder)]
    with Started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert re.fullmatch(STARTED + "Ctrl-C stops it\n", process.stdout.readline())
        time.sleep(5)  # so that it trains
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("steps_s", [[], [0.5, 0.25]])
def test_long_reruns_say_how_long(steps_s, make_run):
    record = RECORD if not steps_s else dataclasses.replace(RECORD, train=TRAINED)
    said = rerun.how_long(record, make_run("train.steps=1000000000"))
    if steps_s:
        assert said == "trains 1000000000 steps, about 2893 days, 12:26:40 at the 250 ms a step of its record"
    else:
        assert said == "trains 1000000000 steps, and its record has no time of one"
    assert rerun.how_long(record, make_run("train.steps=3")) is None
    assert rerun.how_long(record, make_run()) is None


def test_rerun_takes_no_samples(here, capsys):
    folder = run_folder("fine", 1)
    edit_record(folder, lambda record: record["settings"]["timing"].update(rounds=10**9, min_sample_s=10.0**9))
    assert run(capsys, "rerun", str(folder))[0] == 0


def test_rerun_splits_no_cpu_without_bounds(here, capsys):
    folder = run_folder("fine", 1)
    edit_record(folder, lambda record: record["settings"]["process"].update(num_cpu_devices=10**6))
    said = "error: this run wants 1000000 CPU devices, and a record gets 1024 at most.\n"
    assert run(capsys, "rerun", str(folder)) == (2, "", said)


def test_rerun_reports_a_fixed_failure(here, capsys):
    (here / "broken").unlink()
    code, out, _ = run(capsys, "rerun", "outputs/mixed/0", "--trust")
    assert code == 4
    assert out.startswith("  status: failed when saved, done now\n")


def test_rerun_reports_why_it_failed(here, capsys):
    (here / "whole").touch()
    code, out, _ = run(capsys, "rerun", "outputs/mixed/1", "--trust")
    assert code == 4
    assert out.startswith("  status: done when saved, failed now: RuntimeError: the cable is out\n")


def test_rerun_without_its_layer_is_refused(here, capsys, monkeypatch):
    (here / "listed_layers.py").unlink()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "listed_layers.py").exists()])
    assert run(capsys, "rerun", "outputs/mixed/1", "--trust") == (
        2,
        "",
        "error: layer.target=listed_layers.Fails: there is no module listed_layers.\n"
        "  Try: run from the folder that holds the module, or install its package\n",
    )


@pytest.mark.slow
def test_rerun_warns_of_changed_sources(here):
    (here / "listed_layers.py").write_text(LAYERS.replace("y = self.linear(x)", "y = self.linear(x * 1)"))
    command = [sys.executable, "-m", "runner", "rerun", "outputs/mixed/1", "--trust"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{run_folder('mixed', 1).name}: the same bits (3 arrays compared)\n"
    assert done.stderr.startswith("the layer's source, the input file or a variable of the environment is another one ")
