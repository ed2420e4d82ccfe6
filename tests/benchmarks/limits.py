"""What a sweep costs beside its work: planning, a finished sweep again, lists, memory.

    python tests/benchmarks/limits.py [--rounds 3]

Each figure stands beside its peer, taken in turn with it in one run, and their ratio is what counts: these machines are
noisy. Prints a Markdown table.
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
from collections.abc import Callable
from pathlib import Path

RUNNER = (sys.executable, "-m", "runner")
LEAN = ("tracking=disabled", "timing=off", "checks=off", "checkpoint=none")


def seconds(*command: str, folder: Path) -> float:
    """Seconds of one process, which must end well."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
    return time.perf_counter() - start


def compose_s(num: int = 20) -> float:
    """Seconds that Hydra takes to compose one config of ours, twice, as its own sweeper and launcher do."""
    import hydra

    from runner.config import conf_folder, schema

    schema.register()
    with hydra.initialize_config_dir(str(conf_folder.config_dir()), version_base="1.3"):
        hydra.compose("config", ["seed=0"], return_hydra_config=True)
        start = time.perf_counter()
        for seed in range(num):
            for _ in range(2):
                hydra.compose("config", [f"seed={seed}", "features=9"], return_hydra_config=True)
        return (time.perf_counter() - start) / num


def plan_s(folder: Path) -> float:
    """Seconds a config of planning 10,000 configs of 10 programs, the process's start included."""
    words = ("plan", "seed=range(0,1000)", "features=range(8,18)")
    return seconds(*RUNNER, *words, folder=folder) / 10_000


def again_s(folder: Path) -> float:
    """Seconds of a finished sweep of 1,000 runs once more."""
    words = ("-m", "seed=range(0,1000)", "sweep=finished", *LEAN)
    if not (folder / "outputs" / "finished").exists():
        seconds(*RUNNER, *words, folder=folder)
    return seconds(*RUNNER, *words, folder=folder)


def resident_kib(folder: Path) -> tuple[int, int]:
    """Resident memory of one sweep of 2,000 runs after 200 and before the last of them, in KiB."""
    words = ("-m", "seed=range(0,2000)", "sweep=memory", "tracking=disabled")
    process = subprocess.Popen([*RUNNER, *words], cwd=folder, stdout=subprocess.DEVNULL)
    journal = folder / "outputs" / "memory" / "journal.jsonl"
    after_200, last = 0, 0
    while process.poll() is None:
        num_done = journal.read_bytes().count(b'"event":"done"') if journal.exists() else 0
        status = Path(f"/proc/{process.pid}/status")
        with contextlib.suppress(OSError, IndexError):
            now = int(status.read_text().partition("VmRSS:")[2].split()[0])
            after_200 = after_200 or (now if num_done >= 200 else 0)
            # Afterwards the results table is written, once a sweep, with pyarrow.
            last = now if num_done < 2000 else last
        time.sleep(0.05)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, words)
    return after_200, last


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="What a sweep costs beside its work.")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    os.environ |= {"JAX_PLATFORMS": "cpu", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        again_s(folder)

        def taken(ours: Callable[[], float], peer: Callable[[], float]) -> str:
            pairs = [(ours(), peer()) for _ in range(rounds)]
            one, two = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(first / second for first, second in pairs)
            return f"{one:.4g} | {two:.4g} | {ratio:.3g}"

        def import_jax() -> float:
            return seconds(sys.executable, "-c", "import jax", folder=folder)

        sweep = str(folder / "outputs" / "finished")
        run = next((folder / "outputs" / "finished" / "runs").iterdir())
        print("| ours | peer | ours | peer | ratio |\n|---|---|---|---|---|")
        print("| s a config: plan of 10,000 | s to compose one twice |", taken(lambda: plan_s(folder), compose_s), "|")
        print("| s: a finished sweep of 1,000 again | s: import jax |", taken(lambda: again_s(folder), import_jax), "|")
        for words in (("ls",), ("ls", sweep), ("show", str(run)), ("--help",)):
            label = f"| s: {words[0]} {'SWEEP' if words[1:] == (sweep,) else ''} | s: import jax |"
            print(label, taken(lambda words=words: seconds(*RUNNER, *words, folder=folder), import_jax), "|")
        early, late = resident_kib(folder)
        print(f"| KiB: resident after 2,000 runs | KiB: after 200 | {late} | {early} | {late / early:.3g} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
