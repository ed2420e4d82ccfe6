"""`bridge-runner compare A B`: compares two sweeps or runs: what differs, and one verdict."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands.typed.hydra_command import make_importable
from runner.commands.typed.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `compare`."""
    parser.add_argument("a", type=Path, help="folder of a sweep or a run")
    parser.add_argument("b", type=Path, help="another")
    parser.add_argument("--rerun", type=int, metavar="ROUNDS", help="do both again in turns, 10 rounds or more")
    parser.add_argument("--force", action="store_true", help="compare times of different machines")
    parser.add_argument("--json", action="store_true", help="the comparison as data")
    parser.add_argument("--trust", action="store_true", help="with --rerun: import modules neither ours nor flax's")


def run(typed: argparse.Namespace) -> int:
    """Compares two sweeps or runs; 3 if the second is slower, 4 if results differ, 5 if they can't be compared.

    Raises:
      UserError: A side is neither a sweep nor a run, imports untrusted modules, or can't be rerun here.
    """
    make_importable(own=typed.trust)
    from runner.commands.saved import compared_sides

    options = compared_sides.Options(force=typed.force, rerun=typed.rerun, as_json=typed.json, trust=typed.trust)
    return compared_sides.compare(typed.a, typed.b, options)


VERB = Verb(
    name="compare",
    summary="Two sweeps or runs: same results? slower? One verdict.",
    usage="compare outputs/A outputs/B [--rerun 30 [--trust]] [--force] [--json]",
    examples={
        "compare outputs/before outputs/after": "from the records alone",
        "compare outputs/before outputs/after --rerun 30": "both again in turns, which settles it",
        "compare outputs/before/0 outputs/after/0": "two runs",
    },
    add_arguments=add_arguments,
    run=run,
    exit_codes={
        0: "the same results, and no time is longer",
        3: "slower",
        4: "results differ",
        5: "the sides can't be compared",
    },
    paths={"a": "either", "b": "either"},
)
