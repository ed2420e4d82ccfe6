"""Times what a sweep of very many runs costs beside its runs: its folder, its journals, its plan.

    python tests/benchmarks/many_runs.py [--runs 100000] [--keep FOLDER] [--only plan,resume]

One run is made; the folder of the sweep is then filled as if jobs of an engine had made all the others: a record and a
line in the journal of a job for each. The commands that a user waits for are timed on it, each a process of its own,
and each must say or leave what is right: the number of runs, of the missing ones, of rows. With `--keep` the folder is
filled once and serves again: what the commands add to it is taken away.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from runner.config.composing.composed import Config
from runner.config.serialize import from_data, to_data
from runner.launch import jobs, process
from runner.launch.jobs import Crew
from runner.records import store
from runner.records.codec import to_json
from runner.records.disk import files
from runner.records.journal import Journal
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import Record
from runner.records.row import row_of
from runner.sweep.plan import Plan, make_plan, plan_data

NUM_PROGRAMS = 10
NUM_JOBS = 200
# Of one program, left out so that `resume` has something to do.
NUM_MISSING = 20
LEAN = ("tracking=disabled", "timing=off", "checks=off", "checkpoint=none", "sweep=many")


def words(num_runs: int) -> list[str]:
    """The sweep on the command line."""
    return ["-m", f"seed=range(0,{num_runs // NUM_PROGRAMS})", f"features=range(8,{8 + NUM_PROGRAMS})", *LEAN]


def timed(name: str, *command: str) -> None:
    """Runs a command, and prints what it took and its last line."""
    began = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-m", "runner", *command], check=True, capture_output=True, text=True)
    whole_s = time.perf_counter() - began
    user_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    line = next((line for line in done.stdout.splitlines() if "run" in line), "")
    print(f"| `{name}` | {whole_s:.1f} | {user_s:.1f} | {line[:60]} |", flush=True)


def plan_of(template: Record, num_runs: int) -> Plan:
    """The plan that the command line makes of the sweep, by the function that makes it."""
    base = from_data(template.settings)
    configs = []
    for seed in range(num_runs // NUM_PROGRAMS):
        for features in range(8, 8 + NUM_PROGRAMS):
            kwargs = {**base.layer.kwargs, "out_features": features}
            layer = dataclasses.replace(base.layer, kwargs=kwargs)
            run = dataclasses.replace(base, seed=seed, features=features, layer=layer)
            configs.append(Config(run=run, overrides=(f"seed={seed}", f"features={features}")))
    return make_plan(configs, lambda _: SweepFolder(Path("outputs/many")), origin=origin(num_runs))


def origin(num_runs: int) -> dict[str, Any]:
    """What `resume` repeats."""
    return {"command": words(num_runs), "cwd": os.getcwd()}


def fill(plan: Plan, template: Record) -> None:
    """Writes what `NUM_JOBS` jobs would have left of nearly all runs."""
    files.make_sweep_folder(plan.folder)
    store.write_plan(plan.folder, plan_data(plan))
    missing = {task.job.num for task in plan.tasks[NUM_PROGRAMS - 1 :: NUM_PROGRAMS][-NUM_MISSING:]}
    tasks = [task for task in plan.tasks if task.job.num not in missing]
    crew = Crew(engine="x", choice="x", num_workers=NUM_JOBS, exact=True)
    submission = jobs.submit(plan, [tasks[num::NUM_JOBS] for num in range(NUM_JOBS)], crew, {})
    Journal(submission.launcher).close()
    software_id = template.fingerprint["software_id"]
    for num in range(NUM_JOBS):
        journal = Journal(submission.journal(num))
        journal.append("start")
        for task in tasks[num::NUM_JOBS]:
            names = task.job.identity
            record = dataclasses.replace(
                template,
                num=task.job.num,
                run_id=names.run_id,
                result_id=names.result_id,
                program_id=names.program_id,
                settings=to_data(task.job.run),
            )
            task.folder.path.mkdir(parents=True)
            task.folder.record.write_bytes(to_json(record))
            journal.append("begin", sync=False, run_id=names.run_id)
            values = {key: value for key, value in vars(row_of(record)).items() if key != "settings"}
            journal.append(values.pop("status"), sync=False, **values, software_id=software_id)
        journal.append("end")
        journal.close()


def main() -> None:
    """Fills a folder and times the commands on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    num_runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="many-runs-") as name:
        os.chdir(name)
        one = [sys.executable, "-m", "runner", *LEAN[:-1], "sweep=one"]
        subprocess.run(one, check=True, capture_output=True)
        (path,) = Path("outputs/one/runs").iterdir()
        template = store.read_record(RunFolder(path))
        run = from_data(template.settings)
        process.prepare_process([Config(run=run)])
        print("| command | s | user s | says |\n|---|---|---|---|")
        timed("plan", "plan", *words(num_runs)[1:])
        fill(plan_of(template, num_runs), template)
        sweep = "outputs/many"
        timed("ls", "ls")
        timed("ls SWEEP --json", "ls", sweep, "--json")
        timed("resume SWEEP", "resume", sweep)
        timed("results SWEEP", "results", sweep)
        timed("report SWEEP", "report", sweep)


if __name__ == "__main__":
    main()
