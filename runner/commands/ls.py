"""`bridge-runner ls`: lists sweeps, or one's runs, from plans, journals and the seals of records.

Without JAX, in under a second.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.commands.printed.json_output import print_json
from runner.commands.typed.verb import Verb
from runner.errors import StorageError, UserError, visible

if TYPE_CHECKING:
    from runner.records.paths import SweepFolder
    from runner.records.row import Row
    from runner.report.terminal import Terminal

# Between two polls of a journal.
WATCH_S = 0.5

DEFAULT_ROOT = Path("outputs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `ls`."""
    parser.add_argument("path", type=Path, nargs="?", help="a sweep, or a folder of sweeps; default: outputs")
    parser.add_argument("--by", default="", metavar="KEY,…", help="runs that share these values as one row")
    parser.add_argument("--json", action="store_true", help="rows as data")
    parser.add_argument("--watch", action="store_true", help="follow a sweep until it ends")


def run(typed: argparse.Namespace) -> int:
    """Prints the sweeps in a folder, or the runs of a sweep.

    Raises:
      UserError: The sweep does not exist, or its runs have no such key.
    """
    from runner.records.paths import SweepFolder

    if typed.watch and typed.path is None:
        raise UserError("ls: --watch follows one sweep", VERB.usage_line)
    by = [key for key in typed.by.split(",") if key]
    root = typed.path or DEFAULT_ROOT
    if typed.path is not None and SweepFolder(root).plan.exists():
        return _ls_runs(SweepFolder(root), by, as_json=typed.json, watch=typed.watch)
    if by:
        raise StorageError(f"ls --by {','.join(by)}: {root} is no sweep", "bridge-runner ls SWEEP --by KEY")
    return _ls_sweeps(root, as_json=typed.json)


def _ls_runs(folder: SweepFolder, by: Sequence[str], *, as_json: bool, watch: bool) -> int:
    from runner.records import find, store
    from runner.report.terminal import Terminal, describe_study

    terminal = Terminal()
    if watch:
        _watch(folder, terminal)
    rows = [find.check_row(folder, row) for row in find.read_rows(folder)]
    if by:
        return _ls_by(folder, rows, by, as_json=as_json)
    if as_json:
        print_json([vars(row) for row in rows])  # asdict would copy every config
        return 0
    terminal.line(f"{folder.name}: {_counts(rows)}")
    if folder.trials.exists():
        for line in describe_study(store.read_plan(folder), find.read_trials(folder)):
            terminal.line(line)
    terminal.results(rows, max_rows=len(rows))
    if num_damaged := sum(row.status == find.DAMAGED for row in rows):
        again = f"`bridge-runner resume {folder.path}` does them again"
        terminal.line(f"records that are not what was written: {num_damaged}; {again}")
    return 0


def _ls_sweeps(root: Path, *, as_json: bool) -> int:
    from runner.records import find
    from runner.report.terminal import Terminal

    sweeps = find.find_sweeps(root)
    if not sweeps:
        raise StorageError(f"{root} holds no sweep", "bridge-runner -m seed=0,1,2, or bridge-runner ls FOLDER")
    lines: list[dict[str, Any]] = []
    damaged: dict[str, StorageError] = {}
    for sweep in sweeps:
        try:
            lines.append(_sweep_line(sweep))
        except StorageError as error:
            damaged[str(sweep.path)] = error
    if as_json:
        print_json([*lines, *({"sweep": path, "error": error.what} for path, error in damaged.items())])
        return 0
    if lines:
        Terminal().plain_table(lines)
    if damaged:  # after the others, which are no worse for it
        raise next(iter(damaged.values()))
    return 0


def _ls_by(folder: SweepFolder, rows: Sequence[Row], by: Sequence[str], *, as_json: bool) -> int:
    from runner.report import aggregate  # importing NumPy would add a third to any other `ls`
    from runner.report.terminal import Terminal

    groups = aggregate.by(rows, by)
    if as_json:
        print_json([dataclasses.asdict(group) for group in groups])
        return 0
    terminal = Terminal()
    terminal.line(f"{folder.name}: {_counts(rows)}")
    terminal.plain_table(aggregate.lines(groups))
    terminal.notes(aggregate.notes(groups))
    return 0


def _watch(folder: SweepFolder, terminal: Terminal) -> None:
    """Shows the latest runs of a sweep as they end, until its journal says that the sweep has ended."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from runner.launch import queue
    from runner.records import find
    from runner.report import table

    with Live(console=terminal.console, transient=True, auto_refresh=False) as live:
        while True:
            rows = find.read_rows(folder)
            there = [row for row in rows if row.status in find.STATUSES]
            height = max(terminal.console.height - 6, 3)
            head = Text(visible(f"{folder.name}: {_counts(rows)}"))
            tail = table.runs_table(there[-height:], width=terminal.console.width) if there else Text("no run yet")
            live.update(Group(head, tail), refresh=True)
            if queue.is_over(folder):
                return
            time.sleep(WATCH_S)


def _counts(rows: Sequence[Row]) -> str:
    return ", ".join(f"{number} {status}" for status, number in Counter(row.status for row in rows).items())


def _sweep_line(sweep: SweepFolder) -> dict[str, Any]:
    from runner.records.codec import growing

    with growing():
        return _counted(sweep)


def _counted(sweep: SweepFolder) -> dict[str, Any]:
    from runner.records import find, store

    plan = store.read_plan(sweep)
    last: dict[str, str] = {}
    for event in store.read_events(sweep):
        if event["event"] in find.STATUSES:
            last[event["run_id"]] = event["event"]
    # Faster than os.path.exists, which makes an object of what it finds.
    there = {run["run_id"] for run in plan["runs"] if os.access(sweep.record_path(run["num"], run["run_id"]), os.F_OK)}
    last = {run_id: status for run_id, status in last.items() if run_id in there}
    counts = Counter(last.values())
    return {
        "sweep": str(sweep.path),
        "runs": len(plan["runs"]),
        "done": counts["done"],
        "failed": counts["failed"],
        "missing": len(plan["runs"]) - len(last),
        "written": plan["written_at"][:16].replace("T", " "),
    }


VERB = Verb(
    name="ls",
    summary="Sweeps, or the runs of one.",
    usage="ls [outputs/SWEEP] [--by features] [--json] [--watch]",
    examples={
        "ls": "the sweeps in outputs/",
        "ls outputs/mlp-1a2b3c4d --by features": "a row for each width: seeds together",
        "ls outputs/mlp-1a2b3c4d --watch": "follow it from another terminal",
    },
    add_arguments=add_arguments,
    run=run,
    paths={"path": "sweeps"},
)
