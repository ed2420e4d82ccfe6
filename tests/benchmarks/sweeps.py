"""Times whole sweeps, the plain stack against ours, and prints a Markdown table.

    python tests/benchmarks/sweeps.py --cases seeds,programs --scale small

Both sides run the same configs in processes of their own, in turn (plain, ours, plain, ours, ...), each in a fresh
temporary folder, and both must leave what they were asked for before a time counts. README.md says how to read it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLAIN = Path(__file__).resolve().parent / "plain" / "plain.py"
SIDES = ("plain", "ours")
TIMEOUT_S = 1800  # above ten times the slowest case of the plain stack: only a sweep that hangs meets it
STDERR_LINES = 40


class SweepFailed(Exception):
    """A sweep ended badly or left less than it was asked for; its time means nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One sweep: every seed with every program, a program being one number of features."""

    num_seeds: int
    num_programs: int
    ours: tuple[str, ...] = ()  # words that our side gets beside the sweep, e.g. checkpoint=fast

    @property
    def num_runs(self) -> int:
        """Configs in the sweep."""
        return self.num_seeds * self.num_programs

    @property
    def work(self) -> str:
        """The sweep in words, as the table shows it."""
        seeds, programs = _count(self.num_seeds, "seed"), _count(self.num_programs, "program")
        if self.num_seeds == 1:
            return f"{programs}, {seeds}"
        return f"{seeds}, {programs}" if self.num_programs == 1 else f"{seeds} × {programs}"

    @property
    def overrides(self) -> list[str]:
        """The sweep on a Hydra command line, the same words for both sides."""
        seeds = ",".join(str(seed) for seed in range(self.num_seeds))
        features = ",".join(str(8 + program) for program in range(self.num_programs))
        return [f"seed={seeds}", "input_shape=[4]", f"features={features}"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """One turn of both sides over a case, in seconds a process, keyed by side."""

    start_s: dict[str, float]
    whole_s: dict[str, float]


CASES = {
    "full": {
        "seeds": Case(num_seeds=50, num_programs=1),
        "programs": Case(num_seeds=5, num_programs=10),
        "seeds200": Case(num_seeds=200, num_programs=1),
        "programs50": Case(num_seeds=1, num_programs=50),
    },
    "small": {
        "seeds": Case(num_seeds=6, num_programs=1),
        "programs": Case(num_seeds=2, num_programs=3),
        "seeds200": Case(num_seeds=12, num_programs=1),
        "programs50": Case(num_seeds=1, num_programs=6),
    },
}
ONE_RUN = Case(num_seeds=1, num_programs=1)


def command(side: str, case: Case, *, tracking: str, folder: Path) -> list[str]:
    """Returns the command line that runs `case` and leaves everything under `folder`."""
    sweep = ["-m", *case.overrides, f"tracking={tracking}"]
    if side == "plain":
        return [sys.executable, str(PLAIN), *sweep, f"hydra.sweep.dir={folder}"]
    return [
        sys.executable,
        "-m",
        "runner",
        *sweep,
        "timing=quick",
        "checks=strict",
        *case.ours,
        f"output_root={folder}",
    ]


def environment(tracking: str) -> dict[str, str]:
    """Returns the environment of both sides: CPU, nothing sent out, no cache or W&B setting of the caller's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "JAX_", "XLA_"))}
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "WANDB_MODE": tracking,
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }


def time_sweep(side: str, case: Case, *, tracking: str) -> float:
    """Returns the seconds that one process took for the whole sweep, from start to exit.

    Raises:
      SweepFailed: The process failed, hung, or left less than `case` asks for.
    """
    with tempfile.TemporaryDirectory(prefix=f"sweeps-{side}-", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "sweep"
        words = command(side, case, tracking=tracking, folder=folder)
        start = time.perf_counter()
        try:
            done = subprocess.run(
                words,
                check=False,
                cwd=ROOT,
                env=environment(tracking),
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise SweepFailed(f"{side}, {case.work}: not done after {TIMEOUT_S} s.\n  {' '.join(words)}") from None
        elapsed_s = time.perf_counter() - start
        if done.returncode != 0:
            stderr = "\n".join(done.stderr.splitlines()[-STDERR_LINES:])
            raise SweepFailed(f"{side}, {case.work}: exit code {done.returncode}.\n  {' '.join(words)}\n{stderr}")
        check_work(side, case, tracking=tracking, folder=folder)
    return elapsed_s


def check_work(side: str, case: Case, *, tracking: str, folder: Path) -> None:
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
    if tracking == "offline" and num_tracked < case.num_runs:
        short["*.wandb"] = num_tracked
    if short:
        raise SweepFailed(f"{side}, {case.work}: {case.num_runs} runs were asked for, it left {short}.")


def measure(case: Case, *, tracking: str, rounds: int) -> list[Round]:
    """Returns `rounds` turns of both sides; in each, one run and the whole sweep are timed next to each other."""
    result = []
    for _ in range(rounds):
        one_run = dataclasses.replace(ONE_RUN, ours=case.ours)
        start_s = {side: time_sweep(side, one_run, tracking=tracking) for side in SIDES}
        whole_s = {side: time_sweep(side, case, tracking=tracking) for side in SIDES}
        result.append(Round(start_s=start_s, whole_s=whole_s))
    return result


def whole_per_run(case: Case, turn: Round, side: str) -> float:
    """Returns seconds a run, the process start shared out over the runs."""
    return turn.whole_s[side] / case.num_runs


def later_per_run(case: Case, turn: Round, side: str) -> float:
    """Returns seconds for each run after the first; noise can make it zero or less in a short sweep."""
    return (turn.whole_s[side] - turn.start_s[side]) / (case.num_runs - 1)


def ratio(plain_s: Sequence[float], ours_s: Sequence[float]) -> float | None:
    """Returns the median of plain / ours, pair by pair; None where a time is lost in the noise of the start."""
    if min(*plain_s, *ours_s) <= 0:
        return None
    return statistics.median(plain / ours for plain, ours in zip(plain_s, ours_s, strict=True))


def summarise(case: Case, turns: Sequence[Round]) -> dict[str, float | None]:
    """Returns the medians over `turns`, in seconds, and the two ratios, as the table shows them."""
    whole = {side: [whole_per_run(case, turn, side) for turn in turns] for side in SIDES}
    later = {side: [later_per_run(case, turn, side) for turn in turns] for side in SIDES}
    return {
        "whole_plain_s": statistics.median(whole["plain"]),
        "whole_ours_s": statistics.median(whole["ours"]),
        "whole_ratio": ratio(whole["plain"], whole["ours"]),
        "later_plain_s": statistics.median(later["plain"]),
        "later_ours_s": statistics.median(later["ours"]),
        "later_ratio": ratio(later["plain"], later["ours"]),
        "start_plain_s": statistics.median(turn.start_s["plain"] for turn in turns),
        "start_ours_s": statistics.median(turn.start_s["ours"] for turn in turns),
    }


def markdown(results: Sequence[tuple[Case, list[Round]]]) -> str:
    """Returns three tables: whole process, the runs after the first, and the start that lies between them."""
    rows = [(case, summarise(case, turns)) for case, turns in results]
    lines: list[str] = []
    for title, stem in (("Whole process", "whole"), ("Per run without start", "later")):
        lines += [f"**{title}**", "", "| work | runs | plain s/run | ours s/run | ratio |", "|---|---|---|---|---|"]
        for case, numbers in rows:
            times = f"{numbers[f'{stem}_plain_s']:.4f} | {numbers[f'{stem}_ours_s']:.4f}"
            lines.append(f"| {case.work} | {case.num_runs} | {times} | {_times(numbers[f'{stem}_ratio'])} |")
        lines.append("")
    lines += ["**Start** (the same command with 1 run)", "", "| beside | plain s | ours s |", "|---|---|---|"]
    lines += [f"| {case.work} | {n['start_plain_s']:.2f} | {n['start_ours_s']:.2f} |" for case, n in rows]
    return "\n".join(lines)


def to_json(results: Sequence[tuple[Case, list[Round]]], *, tracking: str) -> str:
    """Returns every sample and the machine they were taken on."""
    packages = ("jax", "flax", "hydra-core", "orbax-checkpoint", "wandb")
    cases = [
        {
            "work": case.work,
            **dataclasses.asdict(case),
            "rounds": [dataclasses.asdict(turn) for turn in turns],
            **summarise(case, turns),
        }
        for case, turns in results
    ]
    machine = {"platform": platform.platform(), "python": platform.python_version(), "num_cores": os.cpu_count()}
    versions = {package: importlib.metadata.version(package) for package in packages}
    return json.dumps({"tracking": tracking, "machine": machine, "versions": versions, "cases": cases}, indent=2)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; argparse ends the process with code 2 on a wrong one."""
    names = tuple(CASES["full"])
    parser = argparse.ArgumentParser(description="Time whole sweeps: the plain stack against bridge-runner.")
    parser.add_argument("--cases", default="seeds,programs", help=f"comma-separated, of {', '.join(names)}")
    parser.add_argument("--scale", choices=tuple(CASES), default="full")
    parser.add_argument("--tracking", choices=("offline", "disabled"), default="offline")
    parser.add_argument("--rounds", type=int, default=2, help="turns of both sides a case (default 2)")
    parser.add_argument("--ours", nargs="*", default=[], help="words for our side only, e.g. checkpoint=fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample here too")
    parsed = parser.parse_args(words)
    parsed.cases = parsed.cases.split(",")
    if unknown := [name for name in parsed.cases if name not in names]:
        parser.error(f"--cases: no {', '.join(unknown)}; there are {', '.join(names)}")
    if parsed.rounds < 1:
        parser.error("--rounds: at least 1")
    return parsed


def main() -> int:
    """Runs the chosen cases and returns the exit code: 1 if a sweep did not do its work."""
    options = arguments()
    results = []
    try:
        for side in SIDES:  # not counted: fills the disk cache with the packages of both sides
            time_sweep(side, ONE_RUN, tracking=options.tracking)
        for name in options.cases:
            case = dataclasses.replace(CASES[options.scale][name], ours=tuple(options.ours))
            print(f"{case.work}, {options.rounds} rounds …", file=sys.stderr)
            results.append((case, measure(case, tracking=options.tracking, rounds=options.rounds)))
    except SweepFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(markdown(results))
    if options.json:
        options.json.write_text(to_json(results, tracking=options.tracking) + "\n")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _times(value: float | None) -> str:
    return "lost in the noise" if value is None else f"{value:.1f}×"


if __name__ == "__main__":
    sys.exit(main())
