"""What a W&B server that is dead, slow or dying costs a sweep: tracking=online against tracking=offline, in turn.

    python tests/benchmarks/dead_server.py [--rounds 3] [--servers dead,hangs,slow,dies,well]

Every sweep is a process of its own in a fresh folder; the server is the tests' own, on the loopback. A time counts only
if all W&B runs are in the sweep's folder, the trouble was said once, and `bridge-runner sync` then brings everything to
a server that is well. Prints a Markdown table of ratios.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from wandb_sent import environment  # noqa: E402
from wandb_server import HANG, WandbServer, serve  # noqa: E402

NUM_RUNS = 160
WORDS = ("-m", "seed=range(0,20)", "features=range(8,16)", "sweep=one")
NOWHERE = "http://127.0.0.1:9"
SLOW_S = 2.0


def slow(server: WandbServer) -> Callable[[str, Mapping[str, Any]], None]:
    """Every answer takes two seconds."""
    return lambda what, sent: time.sleep(SLOW_S)


def dying(server: WandbServer) -> Callable[[str, Mapping[str, Any]], int | None]:
    """Takes a few runs, then answers nothing any more."""
    return lambda what, sent: HANG if server.asked["RunOutputArtifacts"] > 10 else None


FAULTS: dict[str, Callable[[WandbServer], Any]] = {
    "dead": lambda server: server.fault,
    "hangs": lambda server: lambda what, sent: HANG,
    "slow": slow,
    "dies": dying,
    "well": lambda server: server.fault,
}


@dataclasses.dataclass(frozen=True)
class Turn:
    """A sweep offline and the same one online.

    Attributes:
      offline_s: Seconds of the one.
      online_s: Seconds of the other.
      offline_cpu_s: Seconds of CPU of the one, all its processes together.
      online_cpu_s: Seconds of CPU of the other.
      offline_end_s: Seconds of the one after its last run was written.
      online_end_s: Seconds of the other after its last run was written.
      arrived: W&B runs that were on the server by then.
    """

    offline_s: float
    online_s: float
    offline_cpu_s: float
    online_cpu_s: float
    offline_end_s: float
    online_end_s: float
    arrived: int


def seconds(folder: Path, url: str, *words: str) -> tuple[float, float, str]:
    """Seconds, of CPU too, of one sweep that must end well and leave all its W&B runs, and what it said."""
    known = environment(folder / "home", url) | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        (sys.executable, "-m", "runner", *words), cwd=folder, env=known, check=True, capture_output=True, text=True
    )
    taken = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if words[0] == "-m":
        found = len(list(folder.glob("outputs/one/wandb/offline-run-*/*.wandb")))
        assert found == NUM_RUNS + 1, f"{found} W&B runs are there, not {NUM_RUNS + 1}"
    return taken, cpu_s, done.stderr


def end_s(folder: Path) -> float:
    """Seconds since the sweep in `folder` wrote that it had ended."""
    last = (folder / "outputs" / "one" / "journal.jsonl").read_text().splitlines()[-1]
    return time.time() - datetime.datetime.fromisoformat(json.loads(last)["at"]).timestamp()


def turn(kind: str) -> Turn:
    """One turn of both, with nothing lost: what did not arrive is sent afterwards."""
    with tempfile.TemporaryDirectory() as name, serve() as server:
        folder = Path(name)
        (folder / "offline").mkdir()
        (folder / "online").mkdir()
        offline_s, offline_cpu_s, _ = seconds(folder / "offline", server.url, *WORDS, "tracking=offline")
        offline_end_s = end_s(folder / "offline")
        server.fault = FAULTS[kind](server)
        url = NOWHERE if kind == "dead" else server.url
        online_s, online_cpu_s, said = seconds(folder / "online", url, *WORDS, "tracking=online")
        assert said.count("tracking.mode=online: ") == (kind != "well"), said
        online_end_s = end_s(folder / "online")
        sent = folder / "online" / "outputs" / "one" / "wandb" / "sent.jsonl"
        arrived = sum(bool(line.strip()) for line in sent.read_text().splitlines()) if sent.exists() else 0
        server.fault = lambda what, sent: None
        seconds(folder / "online", server.url, "sync", "outputs/one")
        assert len(server.runs) == NUM_RUNS + 1, f"{len(server.runs)} runs arrived, not {NUM_RUNS + 1}"
        return Turn(offline_s, online_s, offline_cpu_s, online_cpu_s, offline_end_s, online_end_s, arrived)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="What a dead or slow W&B server costs a sweep.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers", default=",".join(FAULTS))
    typed = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu"}
    print(f"| server | offline, s ({NUM_RUNS} runs) | online, s | ratio | ratio of CPU | end, s | arrived |")
    print("|---|---|---|---|---|---|---|")
    for kind in typed.servers.split(","):
        turns = [turn(kind) for _ in range(typed.rounds)]
        offline_s, online_s, *_, offline_end_s, online_end_s, arrived = (
            statistics.median(column) for column in zip(*map(dataclasses.astuple, turns), strict=True)
        )
        ratio = statistics.median(one.online_s / one.offline_s for one in turns)
        cpu_ratio = statistics.median(one.online_cpu_s / one.offline_cpu_s for one in turns)
        times = f"{offline_s:.1f} | {online_s:.1f} | {ratio:.2f} | {cpu_ratio:.2f}"
        print(f"| {kind} | {times} | {offline_end_s:.1f} → {online_end_s:.1f} | {arrived:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
