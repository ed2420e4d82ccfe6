"""When runs are written by other processes, and what these import. Imports no JAX, so that they can start early."""

from __future__ import annotations

from collections.abc import Sequence

from runner.tracking import processes
from runner.tracking.processes import Processes

# Fewer runs are written sooner by this process.
MIN_SENT_RUNS = 12

# More processes than cores: flushing a run to disk is waiting, and others write meanwhile.
NUM_WAITING = 2

# What the processes import once.
PRELOADED = ("orbax.checkpoint", "runner.sweep.writing.write_run")


def preload(more: Sequence[str]) -> None:
    """Starts to import it, and `more`."""
    processes.preload([*PRELOADED, *more])


def need(started: Processes, num_runs: int) -> None:
    """Makes `started` start if `num_runs` runs are written sooner by them; if they start anyway, they write too."""
    if started.needed or num_runs >= MIN_SENT_RUNS:
        started.need(PRELOADED, _warm)


def _warm() -> None:
    from runner.arrays import checkpoint

    checkpoint.warm()
