"""A saved run again: the same bits, or which are not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from failing_layers import LAYERS
from swept_folder import all_files, edit_record, run, run_folder


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
