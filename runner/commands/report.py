"""`bridge-runner report`: a sweep as one page, written or served while it runs; of a folder of sweeps, an index."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands.typed.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `report`."""
    parser.add_argument("sweep", type=Path, help="folder of the sweep, or of several")
    parser.add_argument("--weights", action="store_true", help="read checkpoints, for histograms of their arrays")
    parser.add_argument("--watch", action="store_true", help="serve the page to this machine while the sweep runs")


def run(typed: argparse.Namespace) -> int:
    """Writes the report of a sweep, or serves it while the sweep runs; of a folder of sweeps writes an index.

    Raises:
      UserError: The sweep does not exist, or a record is damaged.
    """
    from runner.commands.printed import sweeps_index
    from runner.commands.printed.live_report import watch, write

    if sweeps_index.is_folder_of_sweeps(typed.sweep):
        return sweeps_index.write(typed.sweep, watch=typed.watch)
    return watch(typed.sweep) if typed.watch else write(typed.sweep, weights=typed.weights)


VERB = Verb(
    name="report",
    summary="Writes report.html: the sweep as one page that needs no network; of a folder, an index of its sweeps.",
    usage="report outputs/SWEEP [--watch]",
    examples={
        "report outputs/mlp-1a2b3c4d": "the page, from the records",
        "report outputs/mlp-1a2b3c4d --weights": "with histograms of the weights that were saved",
        "report outputs": "index.html: all sweeps of the folder, and how numbers went from one to the next",
        "report outputs/mlp-1a2b3c4d --watch": "served as the sweep grows; Ctrl-C ends it",
    },
    add_arguments=add_arguments,
    run=run,
    paths={"sweep": "sweeps"},
)
