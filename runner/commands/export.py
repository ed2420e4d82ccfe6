"""`bridge-runner export`: a run's variables in nnx, Linen or safetensors format."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands.typed.hydra_command import make_importable
from runner.commands.typed.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `export`."""
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--to", required=True, metavar="nnx|linen|safetensors", help="who is to read it")
    parser.add_argument("--out", type=Path, metavar="PATH", help="default: in exports/ next to the sweep's runs")
    parser.add_argument("--trust", action="store_true", help="import modules that are neither ours nor flax's")


def run(typed: argparse.Namespace) -> int:
    """Exports a run's variables: for native nnx, for the Linen twin, or as safetensors for use outside JAX.

    Raises:
      UserError: The run does not exist, has no such form, or the target already exists.
    """
    make_importable(own=typed.trust)
    from runner.commands.derived import exported_variables

    return exported_variables.export(typed.run, typed.to, out=typed.out, trust=typed.trust)


VERB = Verb(
    name="export",
    summary="Writes a run's variables as nnx, Linen or safetensors keep them.",
    usage="export outputs/SWEEP/runs/RUN --to nnx|linen|safetensors [--out PATH] [--trust]",
    examples={
        "export outputs/mlp-1a2b3c4d/0 --to nnx": "the state of the native module",
        "export outputs/mlp-1a2b3c4d/0 --to safetensors --out mlp.safetensors": "one file, without JAX",
    },
    add_arguments=add_arguments,
    run=run,
    paths={"run": "run"},
)
