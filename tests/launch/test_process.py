"""Signals end a process, whatever it runs."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from other_process import beside, said

RUN = """
import signal, time
from runner.launch import process
process.GRACE_S = {grace}
with process.interrupts(lambda text: print(text, flush=True)):
    print("runs", flush=True)
    while True:
        time.sleep(60)
"""


def test_sigterm_ends_what_never_returns(tmp_path):
    with beside(RUN.format(grace=0.1), tmp_path) as other:
        assert said(other) == "runs"
        other.send_signal(signal.SIGTERM)
        assert said(other).startswith("stopping after the current run, or in 0 s; Ctrl-C again stops now.")
        assert said(other) == "the current run did not end within 0 s of the SIGTERM: stopping now"
        assert other.wait(10) == 143


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_stops_at_once(second, tmp_path):
    with beside(RUN.format(grace=60), tmp_path) as other:
        assert said(other) == "runs"
        other.send_signal(signal.SIGTERM)
        assert said(other).startswith("stopping after the current run, or in 60 s")
        other.send_signal(second)
        assert other.wait(10) == -signal.SIGINT


SWALLOWED = """
import signal, sys
from runner.commands import main
from runner.launch import process
{before}
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    pass  # as OmegaConf does
print(main.main(["show", "nowhere"]))
try:
    with process.interrupts(print):
        print("runs")
except KeyboardInterrupt:
    print("stops")
"""


@pytest.mark.parametrize(
    ("before", "printed", "error"),
    [
        ("process.heed_interrupts()", "130\nstops\n", "error: interrupted\n"),
        ("", "2\nruns\n", "error: nowhere is no run: "),
        ("signal.signal(2, signal.SIG_IGN); process.heed_interrupts()", "2\nruns\n", "error: nowhere is no run: "),
    ],
)
def test_swallowed_ctrl_c_ends_the_command(before, printed, error, tmp_path):
    command = [sys.executable, "-c", SWALLOWED.format(before=before)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == printed
    assert done.stderr.startswith(error)
