"""What digests and checks cost: saving, restoring and verifying against plain Orbax, small trees and one of 2 GB.

    python tests/benchmarks/checkpoints.py [--rounds 3] [--small 1000] [--large-mb 2048] [--runs 1000]

Plain is what the flax guides write: `StandardCheckpointer`, save and wait. Each side is a process of its own, in turn
with the other, and the ratios of a round are what counts. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUNNER = (sys.executable, "-m", "runner")
SMALL_LEAVES, SMALL_BYTES = 4, 10_000
LARGE_LEAVES = 32
SIDES = ("ours", "plain")


def make_tree(num_bytes: int, num_leaves: int, seed: int = 0) -> Any:
    """Variables of so many bytes, JAX arrays, as init leaves them."""
    import jax.numpy as jnp
    import numpy as np

    size = num_bytes // 4 // num_leaves
    base = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
    return {"params": {f"layer_{index}": {"kernel": jnp.asarray(base + index)} for index in range(num_leaves)}}


def saver(side: str) -> Callable[[Any, Path], None]:
    """Saves a tree into the run's folder `path`: ours with digests and a record of them, plain as it is."""
    import orbax.checkpoint as ocp

    from runner.arrays import checkpoint, trees

    if side == "plain":
        standard = ocp.StandardCheckpointer()

        def plain(tree: Any, path: Path) -> None:
            standard.save(path / "checkpoint", tree)
            standard.wait_until_finished()

        return plain

    def ours(tree: Any, path: Path) -> None:
        from runner.records import store
        from runner.records.paths import RunFolder

        leaves = trees.leaves(tree)
        path.mkdir()
        folder = RunFolder(path)
        checkpoint.save(trees.to_host(tree), folder.checkpoint)
        store.write_record(folder, record_of(folder, leaves))

    return ours


def record_of(folder: Any, leaves: Any) -> Any:
    """The least record that says what the checkpoint holds."""
    from runner.arrays import trees
    from runner.records import record
    from runner.records.disk import files

    info = record.CheckpointInfo(path="checkpoint", digest=trees.tree_digest(leaves), num_bytes=0, writer="orbax")
    ids = dict.fromkeys(("run_id", "result_id", "timing_id", "program_id", "started_at", "device", "platform"), "x")
    return record.Record(
        **ids, sweep="s", num=0, status=record.Status.done, wall_s=0.0, overrides=[], settings={}, layer="x",
        variables=leaves, checkpoint=info, files=files.file_digests(folder),
    )  # fmt: skip


def reader(side: str) -> Callable[[Path], None]:
    """Restores what `saver` saved: ours by `verify --no-code`, every file and leaf compared with its digest."""
    import orbax.checkpoint as ocp

    from runner.commands.saved import verifier
    from runner.records.paths import RunFolder

    if side == "plain":
        standard = ocp.StandardCheckpointer()
        return lambda path: standard.restore(path / "checkpoint")
    verifying = verifier.Verifier(code=False)

    def ours(path: Path) -> None:
        wrong = verifying.verify(RunFolder(path)).wrong
        if wrong:
            raise SystemExit("\n".join(wrong))

    return ours


def one(side: str, task: str, folder: Path, *, num: int, num_bytes: int, num_leaves: int) -> None:
    """One side of one comparison, in this process; prints seconds, CPU seconds and peak memory as JSON."""
    import logging

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    paths = [folder / f"{side}-{index}" for index in range(num)]
    if task == "save":
        save, trees_to_save = saver(side), [make_tree(num_bytes, num_leaves, index) for index in range(num)]
        calls = [lambda tree=tree, path=path: save(tree, path) for tree, path in zip(trees_to_save, paths, strict=True)]
        saver(side)(make_tree(SMALL_BYTES, 1), folder / f"{side}-{task}-warm")
    else:
        read = reader(side)
        calls = [lambda path=path: read(path) for path in paths]
        read(folder / f"{side}-save-warm")
    forget_peak()
    cpu, start = cpu_s(), time.perf_counter()
    for call in calls:
        call()
    wall = time.perf_counter() - start
    print(json.dumps({"wall_s": wall, "cpu_s": cpu_s() - cpu, "peak_gib": peak_gib()}))


def cpu_s() -> float:
    """User and system seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def forget_peak() -> None:
    """Lets the peak of resident memory begin again, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib() -> float:
    """Peak resident memory since then."""
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**20
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(side: str, task: str, folder: Path, sizes: dict[str, int]) -> dict[str, float]:
    """What `one` prints, from a process of its own."""
    words = [f"--{key.replace('_', '-')}={value}" for key, value in sizes.items()]
    command = [sys.executable, __file__, "--one", side, task, str(folder), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1200)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(label: str, sizes: dict[str, int], rounds: int, sides: tuple[str, ...]) -> None:
    """A row of the table for saving, and one for restoring, for each side of ours."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            for task in ("save", "restore"):
                for side in sides:
                    found.setdefault((side, task), []).append(measured(side, task, Path(name), sizes))
    for task in ("save", "restore"):
        for side in sides[:-1]:
            pairs = list(zip(found[side, task], found["plain", task], strict=True))
            what = f"{task} and digest" if task == "save" else "verify --no-code"
            cells = [f"{label}: {what}"]
            for key in ("wall_s", "cpu_s", "peak_gib"):
                ours, plain = (statistics.median(pair[index][key] for pair in pairs) for index in (0, 1))
                ratio = statistics.median(first[key] / second[key] for first, second in pairs)
                cells += [f"{ours:.3g}", f"{plain:.3g}", f"**{ratio:.2f}**"]
            print("| " + " | ".join(cells) + " |", flush=True)


def verify_runs(num: int) -> None:
    """How long `verify` takes for a sweep of so many runs of one program, its start included."""
    with tempfile.TemporaryDirectory() as name:
        words = (f"seed=range(0,{num})", "sweep=s", "tracking=disabled", "timing=off", "checks=off")
        subprocess.run([*RUNNER, "-m", *words], cwd=name, check=True, capture_output=True, timeout=1200)
        for flags in ((), ("--no-code",)):
            start = time.perf_counter()
            subprocess.run([*RUNNER, "verify", "outputs/s", *flags], cwd=name, check=True, stdout=subprocess.DEVNULL)
            print(f"verify {' '.join(flags)}: {num} runs in {time.perf_counter() - start:.1f} s")


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Checkpoints against plain Orbax.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large-mb", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--one", nargs=3)
    parser.add_argument("--num", type=int)
    parser.add_argument("--num-bytes", type=int)
    parser.add_argument("--num-leaves", type=int)
    typed = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if typed.one:
        side, task, folder = typed.one
        sizes = {"num": typed.num, "num_bytes": typed.num_bytes, "num_leaves": typed.num_leaves}
        one(side, task, Path(folder), **sizes)
        return 0
    print("| | s ours | s plain | ratio | CPU s ours | plain | ratio | peak GiB ours | plain | ratio |")
    print("|" + "---|" * 10)
    small = {"num": typed.small, "num_bytes": SMALL_BYTES, "num_leaves": SMALL_LEAVES}
    compare(f"{typed.small} × 10 kB", small, typed.rounds, SIDES)
    large = {"num": 1, "num_bytes": typed.large_mb * 2**20, "num_leaves": LARGE_LEAVES}
    compare(f"{typed.large_mb} MB", large, typed.rounds, SIDES)
    verify_runs(typed.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
