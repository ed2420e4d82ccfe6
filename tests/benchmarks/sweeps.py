"""Times whole sweeps, ours against its peers in turn, and prints a Markdown table.

    python tests/benchmarks/sweeps.py --rounds 5
    python tests/benchmarks/sweeps.py --cases seeds200,start --scale small --rounds 1

All sides run the same configs in processes of their own, one after the other in every round, each in a fresh temporary
folder and each with a cache folder that is empty before its first start; all must leave what was asked of them before a
time counts. README.md says how to read it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TIMEOUT_S = 1800  # above ten times the slowest case of the plain stack: only a sweep that hangs meets it
STDERR_LINES = 40
# Part of the machine that others may use before the table says so.
QUIET = 0.1


class SweepFailed(Exception):
    """A sweep ended badly or left less than it was asked for; its time means nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One sweep: every seed with every program, a program being one number of features.

    Attributes:
      num_seeds: Seeds.
      num_programs: Programs.
      tracking: Whether each run is one of W&B's, offline.
      steps: Optimiser steps a run.
      peers: Who does the same work in turn with ours, and the most that ours may take of their time.
      ours: Words that our side gets beside the sweep, e.g. checks=off.
    """

    num_seeds: int
    num_programs: int = 1
    tracking: str = "offline"
    steps: int = 0
    peers: dict[str, float]
    ours: tuple[str, ...] = ()

    @property
    def num_runs(self) -> int:
        """Configs in the sweep."""
        return self.num_seeds * self.num_programs

    @property
    def work(self) -> str:
        """The sweep in words, as the table shows it."""
        axes = [_count(self.num_seeds, "seed"), _count(self.num_programs, "program")]
        steps = [f"{self.steps} optimiser steps"] if self.steps else []
        return " × ".join(axes + steps) + (", W&B" if self.tracking == "offline" else "")

    @property
    def overrides(self) -> list[str]:
        """The sweep on a Hydra command line, the same words for ours and the plain side."""
        seeds = ",".join(str(seed) for seed in range(self.num_seeds))
        features = ",".join(str(8 + program) for program in range(self.num_programs))
        return [f"seed={seeds}", "input_shape=[4]", f"features={features}", f"tracking={self.tracking}"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """What one side took in one round, in seconds a process.

    Attributes:
      first_s: The same command with one run, the cache empty.
      second_s: The same once more.
      whole_s: The whole sweep; None where the case is one run.
      cpu_s: CPU time of the whole sweep.
    """

    first_s: float
    second_s: float
    whole_s: float | None
    cpu_s: float | None


Round = dict[str, Turn]  # by side

FULL = {
    "start": Case(num_seeds=1, peers={"loop": 1.0, "limit": 1.5}),
    "seeds200": Case(num_seeds=200, peers={"loop": 1 / 3, "limit": 1.5}),
    "disabled200": Case(num_seeds=200, tracking="disabled", peers={"loop": 1 / 3, "limit": 1.5}),
    "programs": Case(num_seeds=5, num_programs=10, peers={"loop": 1 / 2, "limit": 1.5}),
    "trained20": Case(num_seeds=20, steps=500, tracking="disabled", peers={"loop": 1 / 15, "limit": 3}),
    "trained64": Case(num_seeds=64, steps=500, tracking="disabled", peers={"loop": 1 / 15, "limit": 3}),
    "plain50": Case(num_seeds=50, peers={"plain": 1 / 15}),
    "programs50": Case(num_seeds=1, num_programs=50, peers={"plain": 1 / 3}),
}


def small(case: Case) -> Case:
    """The same with few runs, for trying the script out; the start outweighs the runs."""
    seeds, programs = min(case.num_seeds, 6), min(case.num_programs, 3)
    return dataclasses.replace(case, num_seeds=seeds, num_programs=programs, steps=min(case.steps, 20))


def command(side: str, case: Case, folder: Path) -> list[str]:
    """Returns the command line that runs `case` and leaves everything under `folder`."""
    if side == "plain":
        plain = str(HERE / "plain" / "plain.py")
        return [sys.executable, plain, "-m", *case.overrides, f"hydra.sweep.dir={folder}"]
    if side == "ours":
        trained = ["train=short", f"train.steps={case.steps}"] if case.steps else []
        words = [*case.overrides, *trained, "timing=quick", "checks=strict", *case.ours, f"output_root={folder}"]
        return [sys.executable, "-m", "runner", "-m", *words]
    numbers = {"seeds": case.num_seeds, "programs": case.num_programs, "steps": case.steps}
    words = [word for name, number in numbers.items() for word in (f"--{name}", str(number))]
    return [sys.executable, str(HERE / f"{side}.py"), str(folder), *words, "--tracking", case.tracking]


def environment(tracking: str, cache: Path) -> dict[str, str]:
    """Returns the environment of all sides: CPU, nothing sent out, no cache or W&B setting of the caller's.

    Nor his PYTHONDONTWRITEBYTECODE: what was installed is compiled then, and our checkout is not.
    """
    unkept = ("WANDB_", "JAX_", "XLA_", "PYTHONDONTWRITEBYTECODE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(unkept)}
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "WANDB_MODE": tracking,
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "XDG_CACHE_HOME": str(cache),
        # Sweeps of others on this machine are not waited for: they are what the last line of the table tells of.
        "BRIDGE_RUNNER_LOCKS": str(cache / "locks"),
    }


def time_sweep(side: str, case: Case, root: Path, cache: Path) -> tuple[float, float]:
    """Returns the seconds that one process took for the whole sweep, from start to exit, and those of CPU.

    Raises:
      SweepFailed: The process failed, hung, or left less than `case` asks for.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=root)) / "sweep"
    words = command(side, case, folder)
    start, cpu_s = time.perf_counter(), _children_s()
    try:
        done = subprocess.run(
            words,
            check=False,
            cwd=ROOT,
            env=environment(case.tracking, cache),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise SweepFailed(f"{side}, {case.work}: not done after {TIMEOUT_S} s.\n  {' '.join(words)}") from None
    taken = time.perf_counter() - start, _children_s() - cpu_s
    if done.returncode != 0:
        stderr = "\n".join(done.stderr.splitlines()[-STDERR_LINES:])
        raise SweepFailed(f"{side}, {case.work}: exit code {done.returncode}.\n  {' '.join(words)}\n{stderr}")
    check_work(side, case, folder)
    return taken


def check_work(side: str, case: Case, folder: Path) -> None:
    """Returns if every run under `folder` left its record, output, checkpoint and, when tracked, W&B file.

    Raises:
      SweepFailed: One of them is missing, or there are more records than runs.
    """
    runs = [record.parent for record in folder.rglob("record.json")]
    left = {
        "record.json": len(runs),
        "output.npy": sum((run / "output.npy").is_file() for run in runs),
        "checkpoint/": sum(any((run / "checkpoint").glob("*")) for run in runs),
    }
    short = {what: number for what, number in left.items() if number != case.num_runs}
    num_tracked = len(list(folder.rglob("*.wandb")))
    # Ours may add a run for the sweep itself, so there can be more than one a config.
    if case.tracking == "offline" and num_tracked < case.num_runs:
        short["*.wandb"] = num_tracked
    if short:
        raise SweepFailed(f"{side}, {case.work}: {case.num_runs} runs were asked for, it left {short}.")


def measure(case: Case, root: Path) -> Round:
    """Returns one round: each side starts with one run, then again, and then does the whole sweep, side after side.

    Nothing is removed before the script ends: ext4 without a journal passes over what was just deleted, and a new file
    takes several times as long for minutes.
    """
    sides = ("ours", *case.peers)
    one_run = dataclasses.replace(case, num_seeds=1, num_programs=1)
    caches = {side: Path(tempfile.mkdtemp(prefix=f"cache-{side}-", dir=root)) for side in sides}
    first_s = {side: time_sweep(side, one_run, root, caches[side])[0] for side in sides}
    second_s = {side: time_sweep(side, one_run, root, caches[side])[0] for side in sides}
    whole = {side: time_sweep(side, case, root, caches[side]) for side in sides} if case.num_runs > 1 else {}
    return {
        side: Turn(
            first_s=first_s[side],
            second_s=second_s[side],
            whole_s=whole[side][0] if whole else None,
            cpu_s=whole[side][1] if whole else None,
        )
        for side in sides
    }


def later_per_run(case: Case, turn: Turn) -> float:
    """Returns seconds for each run after the first; noise can make it zero or less in a short sweep."""
    assert turn.whole_s is not None
    return (turn.whole_s - turn.second_s) / (case.num_runs - 1)


def row(what: tuple[str, str], ours_s: Sequence[float], peer_s: Sequence[float], most: float) -> str:
    """Returns a line of the table: medians over the rounds, and the ratio within a round with its range."""
    if min(*ours_s, *peer_s) <= 0:
        ratio = "lost in the noise"
    else:
        ratios = [ours / peer for ours, peer in zip(ours_s, peer_s, strict=True)]
        spread = f" ({min(ratios):.2f}–{max(ratios):.2f})" if len(ratios) > 1 else ""
        ratio = f"{statistics.median(ratios):.2f}{spread}"
    ours, peer = (_seconds(statistics.median(samples)) for samples in (ours_s, peer_s))
    return f"| {' | '.join(what)} | {ours} | {peer} | {ratio} | {most:.2f} |"


def rows(case: Case, rounds: Sequence[Round]) -> list[str]:
    """Returns the lines of a case, one a peer; those of its start where it is one run."""

    def taken(side: str, seconds: Callable[[Turn], float]) -> list[float]:
        return [seconds(turn[side]) for turn in rounds]

    if case.num_runs > 1:
        ours_s = taken("ours", lambda turn: later_per_run(case, turn))
        peers = case.peers.items()
        return [
            row((case.work, peer), ours_s, taken(peer, lambda turn: later_per_run(case, turn)), most)
            for peer, most in peers
        ]
    lines = []
    for time_of_it in ("first", "second"):

        def start(turn: Turn, name: str = f"{time_of_it}_s") -> float:
            return getattr(turn, name)

        what = f"one run, whole process, {time_of_it} time"
        lines += [
            row((what, peer), taken("ours", start), taken(peer, start), most) for peer, most in case.peers.items()
        ]
    ours = [taken("ours", lambda turn: turn.second_s), taken("ours", lambda turn: turn.first_s)]
    return [*lines, row(("one run, whole process, second time", "ours, first time"), *ours, 0.7)]


def markdown(results: Sequence[tuple[Case, list[Round]]]) -> str:
    """Returns the table."""
    head = ["| work | peer | ours | peer | ours / peer | at most |", "|---|---|---|---|---|---|"]
    return "\n".join(head + [line for case, rounds in results for line in rows(case, rounds)])


class Machine:
    """How much of the machine others used since it was made."""

    def __init__(self) -> None:
        self._load, self._began = os.getloadavg()[0], time.monotonic()
        self._busy_s, self._own_s = _machine_s(), _children_s()

    def sentence(self) -> str:
        """Returns what may be thought of times that were taken meanwhile."""
        cores = os.cpu_count() or 1
        others_s = (_machine_s() - self._busy_s) - (_children_s() - self._own_s)
        part = max(0.0, others_s / (time.monotonic() - self._began) / cores)
        quiet = part < QUIET and self._load < cores * QUIET
        verdict = "Quiet" if quiet else "**Loaded**, so read no time, and ratios with care"
        used = f"others used {part:.0%} of {_count(cores, 'core')} meanwhile"
        return f"{verdict}: load {self._load:.1f} at the start, {used}."


def to_json(results: Sequence[tuple[Case, list[Round]]], sentence: str) -> str:
    """Returns every sample and the machine they were taken on."""
    packages = ("jax", "flax", "hydra-core", "orbax-checkpoint", "wandb")
    cases = [
        {
            "work": case.work,
            **dataclasses.asdict(case),
            "rounds": [{side: dataclasses.asdict(turn) for side, turn in one.items()} for one in rounds],
        }
        for case, rounds in results
    ]
    machine = {"platform": platform.platform(), "python": platform.python_version(), "num_cores": os.cpu_count()}
    versions = {package: importlib.metadata.version(package) for package in packages}
    return json.dumps({"machine": {**machine, "use": sentence}, "versions": versions, "cases": cases}, indent=2)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; argparse ends the process with code 2 on a wrong one."""
    parser = argparse.ArgumentParser(description="Time whole sweeps: ours against its peers.")
    parser.add_argument("--cases", default=",".join(FULL), help=f"comma-separated, of {', '.join(FULL)} (default all)")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--rounds", type=int, default=2, help="turns of all sides a case (default 2)")
    parser.add_argument("--ours", nargs="*", default=[], help="words for our side only, e.g. checks=off")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample here too")
    parsed = parser.parse_args(words)
    parsed.cases = parsed.cases.split(",")
    if unknown := [name for name in parsed.cases if name not in FULL]:
        parser.error(f"--cases: no {', '.join(unknown)}; there are {', '.join(FULL)}")
    if parsed.rounds < 1:
        parser.error("--rounds: at least 1")
    return parsed


def main() -> int:
    """Runs the chosen cases and returns the exit code: 1 if a sweep did not do its work."""
    options = arguments()
    machine = Machine()
    cases = [dataclasses.replace(FULL[name], ours=tuple(options.ours)) for name in options.cases]
    if options.scale == "small":
        cases = [small(case) for case in cases]
    rounds: list[list[Round]] = [[] for _ in cases]
    with tempfile.TemporaryDirectory(prefix="sweeps-", ignore_cleanup_errors=True) as root:
        try:
            for number in range(options.rounds):
                for case, done in zip(cases, rounds, strict=True):
                    done.append(measure(case, Path(root)))
                    print(f"round {number + 1}: {' '.join(rows(case, done[-1:]))}", file=sys.stderr, flush=True)
        except SweepFailed as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    results = list(zip(cases, rounds, strict=True))
    print(markdown(results), f"\n\n{machine.sentence()}", sep="")
    if options.json:
        options.json.write_text(to_json(results, machine.sentence()) + "\n")
    return 0


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _machine_s() -> float:
    """CPU seconds of all processes since the machine started: user, nice, system, irq, softirq."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:8]]
    return sum(ticks[index] for index in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
