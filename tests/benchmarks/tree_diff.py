"""How the comparison of two trees grows with their leaves: ten times the leaves by the time of a tenth of them.

    python tests/benchmarks/tree_diff.py [--rounds 3] [--leaves 10000]

Both sizes are taken in turn in one process, so their ratio is what counts: about 10 where each leaf is looked at once,
100 where each is compared with every other. Seconds are of the process's CPU. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from runner.arrays import tree_moves
from runner.arrays.tree_diff import diff_trees

Tree = dict[str, Any]


def renamed_values(num: int) -> tuple[Tree, Tree]:
    """Arrays that lie under other names."""
    rng = np.random.default_rng(0)
    old = {f"block_{index}": {"kernel": rng.normal(size=(2, 2))} for index in range(num)}
    return {"params": old}, {"params": {f"layer_{index}": leaf for index, leaf in enumerate(old.values())}}


def shapes(num: int, *parts: str) -> Tree:
    leaf = jax.ShapeDtypeStruct((4,), "float32")
    inner = {f"{parts[-1]}_{index}": {"bias": leaf, "kernel": leaf} for index in range(num // 2)}
    return {"params": {parts[0]: inner} if len(parts) > 1 else inner}


CASES: dict[str, Callable[[int], tuple[Tree, Tree]]] = {
    "values under other names": renamed_values,
    "shapes under other names": lambda num: (shapes(num, "a"), shapes(num, "b")),
    "shapes a level deeper": lambda num: (shapes(num, "a"), shapes(num, "deeper", "b")),
}


def seconds(old: Tree, new: Tree) -> float:
    # Checks pair shapes, migrations pair values.
    moves = tree_moves.certain if isinstance(jax.tree.leaves(old)[0], np.ndarray) else tree_moves.likely
    start = time.process_time()
    assert diff_trees(old, new, moves=moves).leaves
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--leaves", type=int, default=10_000)
    args = parser.parse_args()
    print(f"| {args.leaves} leaves | s | ratio to a tenth of them |\n| --- | --- | --- |")
    for name, make in CASES.items():
        rounds = [(seconds(*make(args.leaves // 10)), seconds(*make(args.leaves))) for _ in range(args.rounds)]
        whole = statistics.median(whole for _, whole in rounds)
        print(f"| {name} | {whole:.2f} | {statistics.median(whole / tenth for tenth, whole in rounds):.1f} |")


if __name__ == "__main__":
    main()
