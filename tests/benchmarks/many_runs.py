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
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.config.composing.composed import Config
from runner.config.serialize import from_data, to_data
from runner.launch import jobs, process
from runner.launch.jobs import Crew
from runner.records import columns, find, store
from runner.records.codec import to_json
from runner.records.disk import files
from runner.records.journal import Journal, read_journal
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import Record
from runner.records.row import row_of
from runner.sweep.plan import Plan, make_plan, plan_data

NUM_PROGRAMS = 10
NUM_JOBS = 200
# Of one program, left out so that `resume` has something to do.
NUM_MISSING = 20
SWEEP = "outputs/many"
COMMANDS = ("plan", "ls", "runs", "report", "resume")
LEAN = ("tracking=disabled", "timing=off", "checks=off", "checkpoint=none", "sweep=many")


def words(num_runs: int) -> list[str]:
    """The sweep on the command line."""
    return ["-m", f"seed=range(0,{num_runs // NUM_PROGRAMS})", f"features=range(8,{8 + NUM_PROGRAMS})", *LEAN]


def timed(name: str, *command: str) -> str:
    """Runs a command, prints what it took and a line of it, and returns what it printed."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "runner", *command], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    printed = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)  # of this process alone, the most memory too
    whole_s = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    require(child.returncode == 0, f"{name} ended with {child.returncode}")
    line = next((line for line in printed.splitlines() if "run" in line), printed.partition("\n")[0])
    cpu_s, gigabytes = used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6
    print(f"| `{name}` | {whole_s:.1f} | {cpu_s:.1f} | {gigabytes:.2f} | {line[:60]} |", flush=True)
    return printed


def require(holds: bool, what: str) -> None:
    """Ends the benchmark where a command did not do its work: its time says nothing then."""
    if not holds:
        sys.exit(f"error: {what}")


def done_and_missing(num_runs: int) -> tuple[int, int]:
    """What `ls` counts in the sweep's folder, of which it must know all runs."""
    found = subprocess.run(
        [sys.executable, "-m", "runner", "ls", "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    (sweep,) = [sweep for sweep in json.loads(found.stdout) if sweep["sweep"] == SWEEP]
    require(sweep["runs"] == num_runs, f"ls counts {sweep['runs']} runs of {num_runs}")
    return sweep["done"], sweep["missing"]


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
    return make_plan(configs, lambda _: SweepFolder(Path(SWEEP)), origin=origin(num_runs))


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


def filled(num_runs: int) -> None:
    """Fills the folder of a sweep, if that was not done before."""
    one = [sys.executable, "-m", "runner", *LEAN[:-1], "sweep=one"]
    subprocess.run(one, check=True, capture_output=True)
    (path,) = Path("outputs/one/runs").iterdir()
    template = store.read_record(RunFolder(path))
    process.prepare_process([Config(run=from_data(template.settings))])
    fill(plan_of(template, num_runs), template)


def restored() -> None:
    """Takes away what the commands made: the runs that were missing, the sweep's own journal and files."""
    folder = SweepFolder(Path(SWEEP))
    for event in read_journal(folder.journal):
        if event["event"] in find.STATUSES:
            shutil.rmtree(folder.run(event["num"], event["run_id"]).path)
    for path in (folder.journal, *folder.derived):
        path.unlink(missing_ok=True)


def measure(num_runs: int, only: Sequence[str]) -> None:
    """Times the commands in a filled folder, and checks what each did."""
    missing = min(NUM_MISSING, num_runs // NUM_PROGRAMS)
    require(done_and_missing(num_runs) == (num_runs - missing, missing), "the folder holds another sweep: rm -r it")
    print("| command | s | CPU s | peak GB | says |\n|---|---|---|---|---|")
    if "plan" in only:
        with tempfile.TemporaryDirectory() as empty:
            printed = timed("plan", "plan", *words(num_runs)[1:], f"output_root={empty}")
        require(f"{num_runs} runs · {NUM_PROGRAMS} programs" in printed, f"plan says: {printed[:200]}")
    if "ls" in only:
        printed = timed("ls", "ls", "--json")
        require(f'"missing": {missing}' in printed, f"ls says: {printed[:200]}")
    if "runs" in only:
        printed = timed("ls SWEEP --json", "ls", SWEEP, "--json")
        require(len(json.loads(printed)) == num_runs, "ls SWEEP has not all runs")
    if "report" in only:
        printed = timed("report SWEEP", "report", SWEEP)
        require((Path(SWEEP) / "report.html").stat().st_size > 20 * num_runs, "the report lacks runs")
    if "resume" in only:
        printed = timed("resume SWEEP", "resume", SWEEP)
        require(f"{num_runs} of {num_runs} runs done" in printed, f"resume says: {printed[-400:]}")
        require(done_and_missing(num_runs) == (num_runs, 0), "resume left runs missing")
        rows = columns.read_parquet(SweepFolder(Path(SWEEP)).results.read_bytes()).num_rows
        require(rows == num_runs, f"results.parquet has {rows} rows of {num_runs}")
        restored()


def main() -> None:
    """Fills a folder and times the commands on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="a folder to work in, filled once")
    parser.add_argument("--only", default=",".join(COMMANDS), help=f"of {', '.join(COMMANDS)}")
    typed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-runs-") as temporary:
        folder = typed.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        if not SweepFolder(Path(SWEEP)).plan.exists():
            # A process of its own: what starts a command lends it its own size as peak memory.
            filling = multiprocessing.get_context("spawn").Process(target=filled, args=(typed.runs,))
            filling.start()
            filling.join()
            require(filling.exitcode == 0, "the folder could not be filled")
        measure(typed.runs, typed.only.split(","))
        print(f"\nload at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
