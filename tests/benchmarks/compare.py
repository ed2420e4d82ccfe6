"""How often `compare` calls equal sides slower, and how often it finds a slowdown of 1.2 × that was planted.

    python tests/benchmarks/compare.py [--comparisons 100] [--rounds 30] [--seeds 10]

The planted layer really does more work: 370 instead of 300 rounds of a small matrix product. Beside the rule that is
used stand the plainer ones, on the same numbers. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from runner.commands import main as commands_main
from runner.commands.saved.compared_sides import Reader
from runner.records import store
from runner.records.timing import Samples
from runner.report.compare import pairing, times
from runner.report.compare.pairing import Pairing
from runner.report.compare.rounds import measure
from runner.report.compare.times import Group, Pace
from runner.timing import stats

LAYER = """
import jax
import jax.numpy as jnp
from flax import nnx


class Works(nnx.Module):
    def __init__(self, features, *, loops, rngs):
        self.linear = nnx.Linear(features, features, rngs=rngs)
        self.loops = loops

    def __call__(self, x):
        return jax.lax.fori_loop(0, self.loops, lambda _, y: jnp.tanh(y @ self.linear.kernel[...]), x)
"""

BASE, SLOW = 300, 370
LEAN = ("tracking=disabled", "checkpoint=none", "checks=off", "input_shape=[8,64]", "timing=quick")
Sides = tuple[Reader, Reader]


def sweep(name: str, loops: int, num_seeds: int) -> Reader:
    """A sweep over seeds, with quick timing."""
    layer = ("layer=custom", "layer.target=planted.Works", "layer.kwargs.features=64", f"layer.kwargs.loops={loops}")
    with contextlib.redirect_stdout(io.StringIO()):
        code = commands_main.main(["-m", f"seed=range(0,{num_seeds})", *layer, *LEAN, f"sweep={name}"])
    if code != 0:
        raise SystemExit(f"sweep {name} ended with {code}")
    return Reader(Path("outputs", name))


def paired(sides: Sides) -> tuple[Pairing, Group]:
    """The pairs of two sweeps, and their only program."""
    pairs = pairing.pair(*(side.side.entries for side in sides))
    (group,) = times.groups(pairs.pairs)
    return pairs, group


def pace(ratio: float, p: float) -> Pace:
    """The rule as it is written: significant and large."""
    large = not 1 / times.MIN_RATIO < ratio < times.MIN_RATIO
    return (Pace.slower if ratio > 1 else Pace.faster) if large and p < times.MAX_P else Pace.same


def pooled(sides: Sides) -> Pace:
    """Mann–Whitney on all samples of all seeds."""
    taken: list[list[float]] = []
    for side in sides:
        records = [store.read_record(side.folder(entry)) for entry in side.side.entries]
        taken.append([one for record in records for one in record.timing.apply_latency.samples.durations_s])
    return pace(statistics.median(taken[1]) / statistics.median(taken[0]), stats.rank_test(*taken))


def unguarded(sides: Sides) -> Pace:
    """Mann–Whitney on the medians of the runs, whatever they say of the machine."""
    a, b = paired(sides)[1].medians()
    return pace(statistics.median(b) / statistics.median(a), stats.rank_test(a, b))


def from_records(sides: Sides) -> Pace:
    """What `compare A B` says."""
    return times.from_records([paired(sides)[1]])[0].pace


def rounds(sides: Sides, num_rounds: int) -> tuple[Samples, Samples]:
    """What `compare A B --rerun N` measures."""
    _, group = paired(sides)
    folders = [(sides[0].folder(one.a), sides[1].folder(one.b)) for one in group.pairs]
    return measure(group.label, folders, num_rounds, lambda text: None, trust=True)


def unpaired(samples: tuple[Samples, Samples], num_rounds: int, *, median: bool = False) -> Pace:
    """Mann–Whitney on one number a round of each side, not on their ratio: the fastest call, or the median one."""
    sides = [stats.fastest_of_blocks(one, num_rounds) for one in samples]
    if median:
        size = len(samples[0].durations_s) // num_rounds
        starts = range(0, num_rounds * size, size)
        sides = [[statistics.median(one.durations_s[start : start + size]) for start in starts] for one in samples]
    ratio = statistics.median(two / one for one, two in zip(*sides, strict=True))
    return pace(ratio, stats.rank_test(*sides))


def row(rule: str, equal: Sequence[Pace], planted: Sequence[Pace]) -> str:
    """A line of the table."""

    def said(paces: Sequence[Pace]) -> str:
        counts = Counter(paces)
        return " | ".join(str(counts[one]) for one in (Pace.slower, Pace.faster, Pace.unclear, Pace.same))

    return f"| {rule} | {said(equal)} | {said(planted)} |"


def sweeps(num: int, num_seeds: int) -> Iterator[tuple[Reader, Reader]]:
    """Sweeps of the plain and of the planted layer, in turn; one pair more than comparisons."""
    for number in range(num + 1):
        yield sweep(f"base{number}", BASE, num_seeds), sweep(f"slow{number}", SLOW, num_seeds)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="How often compare is wrong, and how often it finds what is there.")
    parser.add_argument("--comparisons", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=10)
    typed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        sys.path.append(name)
        Path("planted.py").write_text(LAYER)
        say_load("before")
        made = list(sweeps(typed.comparisons, typed.seeds))
        equal = [(made[number][0], made[number + 1][0]) for number in range(typed.comparisons)]
        planted = [(made[number][0], made[number + 1][1]) for number in range(typed.comparisons)]
        heads = "slower | faster | unclear | same"
        print(f"| rule | equal: {heads} | planted: {heads} |\n|{'---|' * 9}")
        rules: list[tuple[str, Callable[[Sides], Pace]]] = [
            ("records: all samples pooled", pooled),
            ("records: a median a run", unguarded),
            ("**`compare A B`**", from_records),
        ]
        for label, rule in rules:
            print(row(label, [rule(sides) for sides in equal], [rule(sides) for sides in planted]), flush=True)
        say_load("between")
        num = typed.rounds
        measured = [(rounds(one, num), rounds(two, num)) for one, two in zip(equal, planted, strict=True)]
        columns = list(zip(*measured, strict=True))
        print(
            row(
                "rounds: Mann–Whitney, medians",
                *([unpaired(one, num, median=True) for one in side] for side in columns),
            )
        )
        print(row("rounds: Mann–Whitney, fastest", *([unpaired(one, num) for one in side] for side in columns)))
        checked = [[times.from_rounds({"": one}, num)[0] for one in side] for side in columns]
        label = f"**`compare A B --rerun {num}`**"
        print(row(label, *([one.pace for one in side] for side in checked)))
        ratios = [statistics.median(one.ratio for one in side if one.ratio is not None) for side in checked]
        print(f"\nmedian ratio in turns: equal {ratios[0]:.3f}, planted {ratios[1]:.3f}")
        say_load("after")
    return 0


def say_load(when: str) -> None:
    """The load average, which says how busy others keep the machine."""
    print(f"load average {when}: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
