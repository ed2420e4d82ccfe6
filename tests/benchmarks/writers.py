"""How the writing of runs spreads over writer processes.

    python tests/benchmarks/writers.py [--runs 96] [--wait-ms 200]

A real run is written again and again, under other names, by 1, 2, 4 and 8 processes: as it is, which takes a core each;
and on a disk that answers late, simulated by a wait before each run, which shows what the sweep's own process allows
where there are cores enough. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner.arrays import checkpoint
from runner.config.env_secrets import Redaction
from runner.config.settings.train import CheckpointSettings
from runner.launch import process
from runner.records import store
from runner.records.paths import RunFolder
from runner.sweep.run_state import State
from runner.sweep.writing import writers
from runner.sweep.writing.write_run import Writing, commit
from runner.tracking.processes import Processes

NUM_WRITERS = (1, 2, 4, 8)
WORDS = ("-m", "seed=0", "features=8", "input_shape=[4]", "timing=off", "tracking=disabled", "sweep=one")


def write(writing: Writing, wait_s: float) -> None:
    """Writes a run after a wait; in a writer."""
    time.sleep(wait_s)
    commit(writing)


def one_run(root: Path) -> Writing:
    """What is written for a run, from one that was made under `root`."""
    subprocess.run([sys.executable, "-m", "runner", *WORDS, f"output_root={root}"], check=True, stdout=sys.stderr)
    (path,) = (root / "one" / "runs").iterdir()
    folder = RunFolder(path)
    record = store.read_record(folder)
    return Writing(
        folder=folder,
        state=State.new,
        keeps_steps=False,
        record=dataclasses.replace(record, checkpoint=None, files={}),
        output=store.read_output(folder, record),
        variables=checkpoint.restore(folder.checkpoint),
        train_state=None,
        checkpoint=CheckpointSettings(),
        hydra_files={path.name: path.read_text() for path in folder.hydra.iterdir()},
        input_path=None,
        sources={},
        redaction=Redaction(),
    )


def seconds_a_run(writing: Writing, num_writers: int, num_runs: int, wait_s: float, root: Path) -> float:
    """What a run takes when `num_runs` are handed to `num_writers` processes, which are there already."""
    processes = Processes(num_writers)
    writers.need(processes, writers.MIN_SENT_RUNS)
    processes.start()
    processes.wait()
    runs = [dataclasses.replace(writing, folder=RunFolder(root / f"runs/{num}-0")) for num in range(num_runs)]
    try:
        # Each has saved once: the first save imports what the next ones have.
        warm = [dataclasses.replace(writing, folder=RunFolder(root / f"warm/{num}-0")) for num in range(num_writers)]
        for future in [processes.submit(write, one, 0.3) for one in warm]:
            future.result()
        began = time.perf_counter()
        for future in [processes.submit(write, one, wait_s) for one in runs]:
            future.result()
        taken_s = time.perf_counter() - began
    finally:
        processes.close()
    assert all(one.folder.record.is_file() for one in runs)
    return taken_s / num_runs


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=96)
    parser.add_argument("--wait-ms", type=float, default=200)
    args = parser.parse_args()
    process.quiet_libraries()
    rows: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        writing = one_run(Path(name))
        for num in NUM_WRITERS:
            waits = (0.0, args.wait_ms / 1e3)
            rows[num] = [
                seconds_a_run(writing, num, args.runs, wait_s, Path(name, f"{num} {wait_s}")) for wait_s in waits
            ]
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}\n")
    print(f"| writers | ms a run | faster | ms a run, {args.wait_ms:.0f} ms late | faster |\n|---|---|---|---|---|")
    for num, taken in rows.items():
        cells = [cell for s, one in zip(taken, rows[1], strict=True) for cell in (f"{s * 1e3:.1f}", f"{one / s:.2f} ×")]
        print(f"| {num} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
