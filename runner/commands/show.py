"""`bridge-runner show`: prints one run."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands.printed.json_output import print_text
from runner.commands.typed.verb import Verb
from runner.errors import StorageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `show`."""
    parser.add_argument("run", type=Path, help="folder of the run, or of its sweep and the run's number")
    parser.add_argument("--json", action="store_true", help="the record as it is")


def run(typed: argparse.Namespace) -> int:
    """Prints one run: settings, output, times, checks, variables, files.

    Raises:
      StorageError: The run does not exist, or its record is damaged.
    """
    from runner.commands.printed import run_lines
    from runner.records import find, store
    from runner.report.terminal import Terminal

    folder = find.find_run(typed.run)
    record = store.read_sealed(folder)
    if typed.json:
        print_text(folder.record.read_text())
        return 0
    terminal = Terminal()
    try:
        lines = list(run_lines.describe(record, folder.path, width=terminal.console.width))
    except (TypeError, LookupError, ValueError, AttributeError, ArithmeticError) as error:
        store.read_record(folder)  # says what of it is of another form
        raise StorageError(f"{folder.record} is of another form than this program writes") from error
    for line in lines:
        terminal.line(line)
    return 0


VERB = Verb(
    name="show",
    summary="One run: settings, variables, output, times, checks.",
    usage="show outputs/SWEEP/runs/RUN [--json]",
    examples={
        "show outputs/mlp-1a2b3c4d/0": "run 0 of a sweep",
        "show outputs/mlp-1a2b3c4d/0 --json": "its record",
    },
    add_arguments=add_arguments,
    run=run,
    paths={"run": "run"},
)
