"""`bridge-runner results`: rebuilds the results of a sweep from its records."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands.typed.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `results`."""
    parser.add_argument("sweep", type=Path, help="folder of the sweep")


def run(typed: argparse.Namespace) -> int:
    """Writes the results of a sweep (and `checks.md`, if there are checks) from its existing records.

    Raises:
      StorageError: There is no sweep, or a record is damaged.
    """
    from runner.records import find, store
    from runner.records.paths import SweepFolder
    from runner.report.terminal import Terminal
    from runner.sweep.writing.outputs import Summary

    folder = SweepFolder(typed.sweep)
    there = [row for row in find.read_rows(folder) if row.status != "missing"]
    summary = Summary()
    for record in store.read_records(folder.run(row.num, row.run_id) for row in there):
        summary.add(record)
    rows = summary.write(folder, [row.run_id for row in there])
    for path in (folder.results, folder.results_csv):
        Terminal().line(f"{path}: {len(rows)} runs")
    if folder.checks.exists():
        Terminal().line(f"{folder.checks}")
    return 0


VERB = Verb(
    name="results",
    summary="Writes results.parquet, results.csv and checks.md of a sweep from its records.",
    usage="results outputs/SWEEP",
    examples={"results outputs/mlp-1a2b3c4d": "also while the sweep runs, or after a crash"},
    add_arguments=add_arguments,
    run=run,
    paths={"sweep": "sweep"},
)
