"""Times one sweep of 200 runs on each launcher, and prints a Markdown table.

    python tests/benchmarks/launchers.py --rounds 3

Every launcher does the same sweep in a fresh folder, in turn, so that what else the machine does hits all alike. Slurm
is one node of this machine, started here; it is left out where its daemons are not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import slurm_cluster  # noqa: E402 - beside the tests

TIMEOUT_S = 900
NUM_PROGRAMS = 10
LAUNCHERS = {
    "in one process": [],
    "joblib, 2 processes": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local, 2 jobs": ["hydra/launcher=submitit_local", "process.workers=2"],
    "submitit_slurm, 2 jobs": ["hydra/launcher=submitit_slurm", "process.workers=2"],
    "ray, 2 cores": ["hydra/launcher=ray"],
}
COLUMNS = ("launcher", "whole s", "s/run", "against in one process", "the first run is done after s")


def time_sweep(words: list[str], num_runs: int, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of a whole sweep, and until its first run was done.

    Raises:
      RuntimeError: It failed, or left less than it was asked for.
    """
    with tempfile.TemporaryDirectory(prefix="launchers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        axes = [f"seed=range(0,{num_runs // NUM_PROGRAMS})", f"features=range(8,{8 + NUM_PROGRAMS})"]
        command = [sys.executable, "-m", "runner", "-m", *axes, "tracking=disabled", "sweep=mine", *words]
        began = time.perf_counter()
        with open(folder / "out", "wb") as out:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
            first_s = wait_for_first(process, folder, began)
            process.wait(timeout=TIMEOUT_S)
        whole_s = time.perf_counter() - began
        num_done = len(list(folder.glob("outputs/mine/runs/*/record.json")))
        if process.returncode or num_done != num_runs:
            raise RuntimeError(f"{' '.join(command)}: {num_done} runs\n{(folder / 'out').read_text()}")
    return whole_s, first_s


def wait_for_first(process: subprocess.Popen[bytes], folder: Path, began: float) -> float:
    """Seconds until a record is there."""
    while process.poll() is None and not any(folder.glob("outputs/mine/runs/*/record.json")):
        time.sleep(0.05)
    return time.perf_counter() - began


def table(taken: dict[str, list[tuple[float, float]]], num_runs: int) -> list[str]:
    """The lines of the Markdown table: medians over the rounds, ratios taken within a round."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    base = [whole_s for whole_s, _ in next(iter(taken.values()))]
    for name, rounds in taken.items():
        whole_s = statistics.median(one for one, _ in rounds)
        ratio = statistics.median(one / other for (one, _), other in zip(rounds, base, strict=True))
        first_s = statistics.median(first for _, first in rounds)
        lines.append(f"| {name} | {whole_s:.1f} | {whole_s / num_runs:.3f} | {ratio:.2f} × | {first_s:.1f} |")
    return lines


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=200)
    typed = parser.parse_args()
    environment = dict(os.environ)
    launchers = dict(LAUNCHERS)
    with contextlib.ExitStack() as stack:
        if slurm_cluster.missing():
            launchers.pop("submitit_slurm, 2 jobs")
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True))
            environment = stack.enter_context(slurm_cluster.slurm(Path(folder)))
        environment |= {"JAX_PLATFORMS": "cpu"}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in launchers}
        for number in range(typed.rounds):
            for name, words in launchers.items():
                taken[name].append(time_sweep(words, typed.runs, environment))
                print(f"round {number + 1}: {name} {taken[name][-1][0]:.1f} s", file=sys.stderr, flush=True)
    print("\n".join(table(taken, typed.runs)))


if __name__ == "__main__":
    main()
