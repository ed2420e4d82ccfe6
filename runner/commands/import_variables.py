"""`bridge-runner import`: converts an export, or a natively saved checkpoint, back to Linen variables."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands.typed.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `import`."""
    parser.add_argument("path", type=Path, help="a checkpoint of any format, or a part of one: PATH#NAMES")
    parser.add_argument("--like", type=Path, metavar="RUN", help="a run of the same layer, where PATH does not say")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: PATH-variables")


def run(typed: argparse.Namespace) -> int:
    """Writes an export, or a natively saved checkpoint, as a checkpoint of Linen variables.

    Raises:
      UserError: It can't be read, or its leaves are not the expected ones.
    """
    from runner.commands.derived import imported_variables

    return imported_variables.import_variables(typed.path, like=typed.like, out=typed.out)


VERB = Verb(
    name="import",
    summary="Writes what was exported, or saved natively, as an Orbax checkpoint of Linen variables.",
    usage="import PATH [--like outputs/SWEEP/runs/RUN] [--out FOLDER]",
    examples={
        "import mlp.safetensors": "what export wrote",
        "import state --like outputs/mlp-1a2b3c4d/0": "what another program saved",
    },
    add_arguments=add_arguments,
    run=run,
    paths={"like": "run"},
)
