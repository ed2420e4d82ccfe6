"""What saving and restoring a large tree over a mesh costs beside plain Orbax: time and peak memory.

    python tests/benchmarks/sharded.py [--gib 2] [--rounds 3]

Eight CPU devices, eight float32 arrays cut along both axes of a mesh 2 × 4. Each side works in a process of its own, in
turn; a time counts until the files are flushed, and peak memory is that of the whole process. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDES = ("ours", "same options", "plain Orbax")


def tree_of(gib: float) -> Any:
    """Eight arrays of random numbers, in parts on eight devices."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    shape = (8192, max(4, int(gib * 2**30 / 8 / 4 / 8192) // 4 * 4))
    sharding = NamedSharding(mesh, PartitionSpec("data", "model"))
    make = jax.jit(lambda key: jax.random.normal(key, shape), out_shardings=sharding)
    return jax.block_until_ready({"params": {f"kernel_{num}": make(jax.random.key(num)) for num in range(8)}})


def calls(side: str, path: Path) -> tuple[Callable[[Any], None], Callable[[Any], Any]]:
    """Save and restore of one side; ours with the digest of every leaf, which is what a run does."""
    import jax
    import orbax.checkpoint as ocp

    from runner.arrays import checkpoint, trees

    if side == "ours":

        def save(tree: Any) -> None:
            trees.leaves(tree)
            checkpoint.save(tree, path)

        def restore(tree: Any) -> Any:
            found = checkpoint.restore_onto(path, lambda name: tree["params"][name.split("/")[1]].sharding)
            trees.leaves(found)
            return found

        return save, restore
    if side == "same options":
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False)
        checkpointer: Any = ocp.Checkpointer(handler)
    else:
        checkpointer = ocp.PyTreeCheckpointer()

    def placed(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: ocp.ArrayRestoreArgs(sharding=leaf.sharding), tree)

    return lambda tree: checkpointer.save(path, tree), lambda tree: checkpointer.restore(
        path, restore_args=placed(tree)
    )


def flush(path: Path) -> None:
    """Waits until what was written is on the disk."""
    for file in path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def work(side: str, step: str, path: Path, gib: float) -> None:
    """Prints seconds and peak memory of one save, or one restore, of one side."""
    import logging

    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    tree = tree_of(gib if step == "save" else 8 * 8192 * 4 * 4 / 2**30)
    save, restore = calls(side, path)
    if step == "restore":  # the small tree only says where things go: the restored one is to be the memory that counts
        start = time.perf_counter()
        jax.block_until_ready(restore(tree))
    else:
        os.sync()
        start = time.perf_counter()
        save(tree)
        flush(path)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak_bytes()}))


def measured(side: str, step: str, path: Path, gib: float) -> dict[str, float]:
    """One step of one side, in a process of its own."""
    command = [sys.executable, __file__, "--work", side, step, str(path), "--gib", str(gib)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="A large tree over a mesh: ours beside plain Orbax.")
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs=3)
    typed = parser.parse_args()
    if typed.work:
        side, step, path = typed.work
        work(side, step, Path(path), typed.gib)
        return 0
    os.environ |= {"JAX_PLATFORMS": "cpu"}
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(typed.rounds):
        for side in SIDES:
            with tempfile.TemporaryDirectory() as name:
                for step in ("save", "restore"):
                    one = measured(side, step, Path(name) / "checkpoint", typed.gib)
                    found.setdefault((step, side), []).append(one)
    print("| step | side | s | ours / it | peak GiB | ours / it |\n|---|---|---|---|---|---|")
    for step in ("save", "restore"):
        for side in SIDES:
            rows = found[step, side]
            ratios = []
            for key in ("seconds", "peak"):
                pairs = zip(found[step, "ours"], rows, strict=True)
                ratios.append(statistics.median(ours[key] / other[key] for ours, other in pairs))
            seconds, peak = (statistics.median(row[key] for row in rows) for key in ("seconds", "peak"))
            print(f"| {step} | {side} | {seconds:.3g} | {ratios[0]:.3g} | {peak / 2**30:.3g} | {ratios[1]:.3g} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
