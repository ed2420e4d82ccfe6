"""The report of a large sweep: seconds to make it, its size, seconds until it can be used in Chromium.

    python tests/benchmarks/report.py [--runs 10000] [--keep FOLDER]

A real sweep of ten programs is run, and its records are multiplied: every copy has a run id, a seed, digests, times and
output statistics of its own, so that nothing compresses better than in a real one. Prints a Markdown table; the limits
that it is held to stand in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from runner.records import store
from runner.records.codec import to_json
from runner.records.journal import to_line
from runner.records.paths import SweepFolder
from runner.records.record import Record

RUNNER = (sys.executable, "-m", "runner")
PROGRAMS = 10
LIMITS = {"MB": 8.0, "seconds to make": 10.0, "seconds until usable": 2.0}
BROWSER = ("--no-sandbox", "--disable-quic", "--disable-background-networking")


def real_sweep(folder: Path) -> SweepFolder:
    """One run each of ten programs."""
    words = ("-m", "features=range(8,18)", "sweep=real", "tracking=disabled")
    subprocess.run([*RUNNER, *words], cwd=folder, check=True, capture_output=True, timeout=600)
    return SweepFolder(folder / "outputs" / "real")


def copy_of(record: Record, num: int, seed: int, chance: random.Random) -> Record:
    """A record that differs from `record` in all that differs from seed to seed."""

    def digest(name: str) -> str:
        return hashlib.sha256(f"{num}/{name}".encode()).hexdigest()

    def jitter(value: Any) -> Any:
        return value * chance.uniform(0.9, 1.1) if isinstance(value, float) else value

    def shaken(item: Any) -> Any:
        """`item`, a dataclass of numbers, with every one of them moved a little."""
        return dataclasses.replace(item, **{key: jitter(value) for key, value in vars(item).items()})

    assert record.timing is not None
    names = ("init_latency", "apply_dispatch", "apply_latency", "apply_throughput")
    measured = {name: getattr(record.timing, name) for name in names}
    measured = {name: dataclasses.replace(one, summary=shaken(one.summary)) for name, one in measured.items()}
    timing = dataclasses.replace(
        shaken(record.timing), **measured, init=shaken(record.timing.init), apply=shaken(record.timing.apply)
    )
    output = [dataclasses.replace(shaken(one), digest=digest("output")) for one in record.output]
    return dataclasses.replace(
        record,
        run_id=digest("run"),
        num=num,
        settings={**record.settings, "seed": seed},
        wall_s=jitter(record.wall_s),
        variables=[dataclasses.replace(leaf, digest=digest(leaf.name)) for leaf in record.variables],
        output=output,
        timing=timing,
    )


def large_sweep(real: SweepFolder, num_runs: int) -> SweepFolder:
    """A sweep's folder with `num_runs` records."""
    large = SweepFolder(real.path.with_name("large"))
    plan = store.read_plan(real)
    bases = [(run, store.read_record(real.run(run["num"], run["run_id"]))) for run in plan["runs"]]
    chance, runs, lines = random.Random(0), [], []
    for num in range(num_runs):
        planned, base = bases[num % PROGRAMS]
        record = copy_of(base, num, num // PROGRAMS, chance)
        folder = large.run(num, record.run_id)
        folder.path.mkdir(parents=True)
        folder.record.write_bytes(to_json(record))
        runs.append({**planned, "num": num, "run_id": record.run_id, "settings": record.settings})
        lines.append(to_line({"event": "done", "run_id": record.run_id}))
    store.write_plan(large, {**plan, "sweep": "large", "num_configs": num_runs, "runs": runs})
    large.journal.write_bytes(b"".join(lines))
    return large


def make_s(large: SweepFolder) -> tuple[float, float, float]:
    """Seconds of `bridge-runner report`, whole process: waited for, and of CPU; and the page's size in MB."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*RUNNER, "report", str(large.path)], check=True, capture_output=True, timeout=600)
    waited, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return waited, cpu, large.report.stat().st_size / 1e6


def open_s(page: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds until the table and the first charts are there, of a sort and of a filter, each in a fresh tab."""
    from playwright.sync_api import sync_playwright

    ready: dict[str, list[float]] = {"until usable": [], "sort": [], "filter": []}
    timed = """(act) => new Promise((resolve) => {
        const start = performance.now();
        act === 'sort' ? table.setSort('apply_latency', 'desc') : table.setFilter((row) => row['set.features'] === 9);
        requestAnimationFrame(() => setTimeout(() => resolve((performance.now() - start) / 1000)));
    })"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(BROWSER))
        for _ in range(rounds):
            tab = browser.new_page()
            start = time.perf_counter()
            tab.goto(page.resolve().as_uri(), wait_until="commit")
            tab.wait_for_selector("html[data-ready]")
            ready["until usable"].append(time.perf_counter() - start)
            for act in ("sort", "filter"):
                ready[act].append(tab.evaluate(timed, act))
            tab.close()
        browser.close()
    return ready


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="a folder to work in, left as it is")
    typed = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = typed.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        large = SweepFolder(folder / "outputs" / "large")
        if not large.plan.exists():
            large = large_sweep(real_sweep(folder), typed.runs)
        waited, cpu, megabytes = make_s(large)
        opened = open_s(large.report, typed.rounds)
    print(f"| {typed.runs} runs, {PROGRAMS} programs | least | median | limit |\n| --- | --- | --- | --- |")
    print(f"| MB | {megabytes:.2f} | | {LIMITS['MB']:g} |")
    print(f"| seconds to make, {cpu:.1f} of CPU | {waited:.1f} | | {LIMITS['seconds to make']:g} |")
    for name, values in opened.items():
        limit = LIMITS.get(f"seconds {name}", "")
        print(f"| seconds {name} | {min(values):.2f} | {sorted(values)[len(values) // 2]:.2f} | {limit} |")


if __name__ == "__main__":
    main()
