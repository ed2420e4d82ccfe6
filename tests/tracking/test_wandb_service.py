"""W&B's own service: where it does not start, a sweep does not wait for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("reporting", [None, "true", "false"])  # where it is sent, wandb would wait for ever
def test_a_service_that_does_not_start_is_named(reporting, tmp_path):
    command = [sys.executable, "-m", "runner", "sweep=mine", "timing=off", "checks=off", "tracking.artifacts=true"]
    surroundings = os.environ | {"WANDB__SERVICE_WAIT": "0.000001"}
    surroundings |= {"WANDB_ERROR_REPORTING": reporting} if reporting else {}
    options = {"cwd": tmp_path, "env": surroundings, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run(command, check=False, **options)
    assert (done.returncode, "1 of 1 runs done" in done.stdout) == (0, True)
    assert re.match(
        r"W&B run mine-\w+ is missing or incomplete: ServicePollForTokenError: Failed to read port", done.stderr
    )
