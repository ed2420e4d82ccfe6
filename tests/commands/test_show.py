"""One run, as `show` prints it."""

from __future__ import annotations

import re

import pytest
from swept_folder import edit_record, forget, run, run_folder


@pytest.fixture
def here(swept_here):
    return swept_here


@pytest.mark.parametrize("name", ["{run}", "{run}/", "{run}/record.json", "outputs/fine/2", "outputs/fine/{start}"])
def test_show_finds_runs_by_any_name(name, here, capsys):
    folder = run_folder("fine", 2)
    code, out, err = run(capsys, "show", name.format(run=folder, start=folder.name[:5]))
    assert (code, err) == (0, "")
    assert out.startswith(f"{folder.name} of fine: done\n  {folder}\n")
    assert "\n  seed=1\n" in out
    assert "\n  layer.kwargs.out_features=4\n" in out
    assert re.search(r"\n  params/kernel  kernel    float32\[4,4\]  64     [0-9a-f]{12}\n", out)
    assert re.search(r"\n  apply_latency     [\d.]+ .?s, n 2  ~ ", out)
    assert "\n  yes     eager: init and apply give the same bits compiled and eager\n" in out or "skipped eager" in out
    assert out.endswith(f"\nagain: bridge-runner rerun {folder}\n")


def test_show_takes_a_single_run_sweep(here, capsys):
    forget("mixed", 0)
    code, out, _ = run(capsys, "show", "outputs/mixed")
    assert (code, out.splitlines()[0]) == (0, f"{run_folder('mixed', 1).name} of mixed: done")


def test_show_json_is_the_record_file(here, capsys):
    folder = run_folder("fine", 0)
    assert run(capsys, "show", str(folder), "--json") == (0, (folder / "record.json").read_text(), "")


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_show_reads_the_seal_of_records(words, here, capsys):
    record = run_folder("fine", 0) / "record.json"
    record.write_text(record.read_text().replace('"wall_s": ', '"wall_s": 1'))
    code, out, err = run(capsys, "show", "outputs/fine/0", *words)
    assert (code, out) == (2, "")
    assert err == (
        f"error: {record} is damaged: it is not what was written, by its digest.\n"
        "  Try: run the same sweep again: what is damaged is done again\n"
    )


def test_show_prints_the_failure_traceback(here, capsys):
    code, out, _ = run(capsys, "show", "outputs/mixed/0")
    assert code == 0
    assert (
        "\nfailed: other: JaxRuntimeError: RuntimeError: the cable is out\nTraceback (most recent call last):\n" in out
    )
    assert "listed_layers.py" in out
    assert "in look\nRuntimeError: the cable is out\n\nagain: " in out


def test_a_refused_run_has_no_traceback(here, capsys):
    error = {"kind": "check", "type": "CheckFailed", "message": "complete: 1 is missing"}
    error |= {"traceback": "Traceback (most recent call last):"}
    edit_record(run_folder("mixed", 0), lambda record: record.update(error=error))
    _, out, _ = run(capsys, "show", "outputs/mixed/0")
    assert "\nfailed: check: CheckFailed: complete: 1 is missing\n\nagain: " in out
    assert "Traceback" not in out


def test_show_prints_gpu_clocks_and_processes(here, capsys):
    gpu = {"index": 0, "name": "NVIDIA H100", "clock_mhz": 1755, "max_clock_mhz": 1980, "memory_clock_mhz": 2619}
    gpu |= {"temperature_c": 41, "num_other_processes": 1}
    edit_record(run_folder("fine", 0), lambda record: record["timing"].update(gpus=[gpu]))
    _, out, _ = run(capsys, "show", "outputs/fine/0")
    assert "  gpu 0             NVIDIA H100, 1755 of 1980 MHz, memory 2619 MHz, 41 °C, 1 other processes\n" in out


def test_show_cuts_long_values(here, capsys):
    folder = run_folder("fine", 0)
    edit_record(folder, lambda record: record["settings"]["tracking"].update(notes="x" * 500))
    _, out, _ = run(capsys, "show", str(folder))
    assert f"\n  tracking.notes={'x' * 99}…\n" in out


def test_a_damaged_record_is_said(here, capsys):
    record = run_folder("fine", 0) / "record.json"
    record.write_text(record.read_text()[:100])
    code, _, err = run(capsys, "show", str(record))
    assert code == 2
    assert err.startswith(f"error: {record} is damaged: ")
