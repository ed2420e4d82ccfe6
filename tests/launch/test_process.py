"""Signals end a process, whatever it runs."""

from __future__ import annotations

import signal

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
