"""`bridge-runner reload`: loads a saved run in the requested form and applies it to its recorded input."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands.typed.hydra_command import make_importable
from runner.commands.typed.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `reload`."""
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument(
        "--as", dest="as_", choices=("linen", "nnx"), default="linen", metavar="nnx|linen", help="default: linen"
    )
    parser.add_argument("--device", metavar="DEVICE", help="where the variables go, e.g. cpu:1")
    parser.add_argument("--dtype", metavar="DTYPE", help="cast floating leaves, e.g. to bfloat16")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), metavar="PATH,…", help="collections or leaves, e.g. params"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write what was loaded, as an Orbax checkpoint")
    parser.add_argument("--trust", action="store_true", help="import modules that are neither ours nor flax's")


def run(typed: argparse.Namespace) -> int:
    """Loads a run as requested, applies it to the recorded input, and prints how closely the output agrees.

    Raises:
      UserError: The run does not exist, is damaged or untrusted, or can't be loaded this way.
    """
    make_importable(own=typed.trust)
    from runner.commands.saved import reloaded_run

    return reloaded_run.reload(
        typed.run,
        out=typed.out,
        as_=typed.as_,
        device=typed.device,
        dtype=typed.dtype,
        only=typed.only,
        trust=typed.trust,
    )


VERB = Verb(
    name="reload",
    summary="Loads a saved run, applies it to its recorded input, says how exactly it agrees; prints Python for it.",
    usage="reload outputs/SWEEP/runs/RUN [--as nnx|linen] [--device cpu:1] [--dtype bfloat16] "
    "[--only params,batch_stats/mean] [--out FOLDER] [--trust]",
    examples={
        "reload outputs/mlp-1a2b3c4d/0": "as Linen variables",
        "reload outputs/mlp-1a2b3c4d/0 --as nnx": "as the native module",
        "reload outputs/mlp-1a2b3c4d/0 --dtype bfloat16 --out half": "cast, and saved",
    },
    add_arguments=add_arguments,
    run=run,
    paths={"run": "run"},
)
