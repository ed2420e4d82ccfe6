"""`bridge-runner verify`: is a run still intact? From its folder alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands.typed.hydra_command import make_importable
from runner.commands.typed.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `verify`."""
    parser.add_argument("path", type=Path, help="folder of a run, or of a sweep for all its runs")
    parser.add_argument("--trust", action="store_true", help="import modules that are neither ours nor flax's")
    parser.add_argument("--no-code", action="store_true", help="files, leaves and output only; no layer is built")
    parser.add_argument("--device", metavar="DEVICE", help="apply the layer there, e.g. gpu")


def run(typed: argparse.Namespace) -> int:
    """Verifies a run, or every run of a sweep; 4 if one is not intact.

    Raises:
      UserError: There is no such run or device, or it imports untrusted modules.
    """
    make_importable(own=typed.trust)
    from runner.commands.saved import verifier

    return verifier.verify(typed.path, trust=typed.trust, code=not typed.no_code, device=typed.device)


VERB = Verb(
    name="verify",
    summary="From the folder alone: are files, leaves and output of a run still what they were?",
    usage="verify outputs/SWEEP[/runs/RUN] [--trust] [--no-code] [--device gpu]",
    examples={
        "verify outputs/mlp-1a2b3c4d": "every run of a sweep",
        "verify outputs/mlp-1a2b3c4d/0 --no-code": "one run, without running code that it names",
        "verify outputs/mlp-1a2b3c4d/0 --device gpu": "does a GPU give the recorded output?",
    },
    add_arguments=add_arguments,
    run=run,
    exit_codes={0: "all is as it was", 4: "something is not as it was"},
    paths={"path": "either"},
)
