"""Kills sweeps while they write, hundreds of times: each is a fork of this process, which has composed their configs.

`python killed_sweeps.py SEED NUM` kills NUM times below the working directory: sweeps with all defaults, W&B among
them, in `default…`, and others without W&B, whose start takes seconds, in `s…`. It prints a line of JSON:
how many kills hit a sweep before its end, how many lost nothing, what was wrong, and the names of the sweeps. This
process never starts JAX: a fork of one that has threads may hang.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from runner.commands.typed.hydra_command import hydra_command
from runner.launch.application import Act, SweepRequest, SweepResult, run_sweep
from runner.records import store
from runner.records.journal import read_journal
from runner.records.paths import SweepFolder

WORDS = ("-m", "seed=range(0,20)")
DEFAULT, QUICK = (), ("tracking=disabled", "checks=off", "timing=off")
AGAIN = ("failure.retry=all",)
# A run that was at it in five kills counts as their cause: recorded as died the first time, tried again the second.
MAX_FINISHES = 2
# How often a sweep has all defaults, and after which part of a second a kill comes.
EVERY, LATEST_S = 10, 0.3
PRELOADED = (
    "jax flax.linen flax.nnx optax orbax.checkpoint tensorstore pyarrow.parquet runner.sweep.execute "
    "runner.launch.closing_lines runner.report.html.page runner.report.terminal runner.tracking.pool "
    "runner.sweep.writing.run_writer runner.experiment.execute runner.checks.registry runner.arrays.checkpoint"
)


def composed(*words: str) -> SweepRequest:
    """What a command line asks for."""
    asked: list[SweepRequest] = []
    act = Act("kill", lambda request: asked.append(request) or SweepResult())
    hydra_command([*WORDS, *words], act)
    return asked[0]


def begin(name: str, request: SweepRequest) -> int:
    """The id of a process that runs or goes on with a sweep."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(f"{name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    code = 70
    try:
        place = SweepFolder(Path("outputs", name)).path
        code = run_sweep(dataclasses.replace(request, place=lambda _: place)).exit_code
    finally:
        os._exit(code)


def ended(pid: int) -> int | None:
    """The exit code of a process; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def done(folder: SweepFolder) -> dict[str, str]:
    """The record of each run that the journal has as done, which must be there and whole.

    All of it but what its W&B run cost: the one number that is written after a run is done, with the record as a whole.
    """
    events = [event for event in read_journal(folder.journal) if event["event"] == "done"]
    records = {}
    for event in events:
        assert event["run_id"] not in records, f"{event['run_id']} is done twice"
        record = store.read_sealed(folder.run(event["num"], event["run_id"]))
        record["digest"] = record["timing"]["tracker_s"] = None
        records[event["run_id"]] = json.dumps(record, sort_keys=True)
    return records


def kill_once(name: str, request: SweepRequest, chance: random.Random) -> int | None:
    """Goes on with a sweep and kills it some time after it has begun to write; its exit code if it ended before."""
    journal = SweepFolder(Path("outputs", name)).journal
    before = journal.stat().st_size if journal.exists() else 0
    # Mostly while runs are written, and sometimes before the first one, or at the end.
    line = chance.choices((b"start", b"begin", b"done"), (2, 2, 6))[0]
    pid = begin(name, request)
    while (code := ended(pid)) is None and not (journal.exists() and line in journal.read_bytes()[before:]):
        time.sleep(0.001)
    if code is not None:
        return code
    time.sleep(chance.uniform(0, LATEST_S))
    if (code := ended(pid)) is not None:
        return code
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def finish(name: str, request: SweepRequest) -> int:
    """Goes on with a sweep to its end; its exit code."""
    _, status = os.waitpid(begin(name, request), 0)
    return os.waitstatus_to_exitcode(status)


def kills(seed: int, num: int) -> dict[str, object]:
    """What became of `num` kills."""
    chance = random.Random(seed)
    requests = {words: (composed(*words), composed(*words, *AGAIN)) for words in (DEFAULT, QUICK)}
    held, wrong, names, tried = 0, [], [], 0
    while tried < num:
        is_default = len(names) % EVERY == 1
        names.append(name := f"{'default' if is_default else 's'}{seed}-{len(names)}")
        request, again = requests[DEFAULT if is_default else QUICK]
        folder, before = SweepFolder(Path("outputs", name)), {}
        while tried < num and kill_once(name, request, chance) is None:
            tried += 1
            try:
                now = done(folder)
                assert before.items() <= now.items(), "a run that was done has another record"
                before, held = now, held + 1
            except Exception as error:  # noqa: BLE001 - what a kill may have left is any
                wrong.append(f"{name}: {type(error).__name__}: {error}")
        codes = [finish(name, again) for _ in range(MAX_FINISHES)]
        if codes[-1]:
            wrong.append(f"{name}: exit codes {codes}: {Path(f'{name}.err').read_text()[-500:]}")
    return {"tried": tried, "held": held, "wrong": wrong, "names": names}


if __name__ == "__main__":
    seed, num = map(int, sys.argv[1:])  # Hydra's arguments go there
    for module in PRELOADED.split():
        __import__(module)
    print(json.dumps(kills(seed, num)), flush=True)
