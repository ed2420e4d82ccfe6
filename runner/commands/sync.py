"""`bridge-runner sync`: uploads the W&B runs of a sweep to the server, each once."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands.typed.verb import Verb
from runner.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `sync`."""
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    parser.add_argument("--watch", action="store_true", help="send runs as they come, until the sweep ends")
    parser.add_argument("--workspace", action="store_true", help="save a view of the project, grouped by program")
    # The files of a single W&B run, to upload while it is being written.
    parser.add_argument("--live", action="store_true", help=argparse.SUPPRESS)
    # The sweep process that started this one, which ends with it.
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)


def run(typed: argparse.Namespace) -> int:
    """Uploads the W&B runs of a sweep to a server; 1 if it does not end up with all of them.

    Raises:
      UserError: The sweep does not exist, no API key is configured, or no server answers.
    """
    from runner.commands.saved import wandb_sync

    if typed.workspace and typed.watch:
        raise UserError("--workspace goes without --watch", f"bridge-runner sync {typed.sweep} --workspace")

    if typed.live:
        return wandb_sync.follow(typed.sweep, parent=typed.parent)
    if typed.watch:
        return wandb_sync.watch(typed.sweep, parent=typed.parent)
    return wandb_sync.sync(typed.sweep, workspace=typed.workspace)


VERB = Verb(
    name="sync",
    summary="Sends the W&B runs of a sweep to the server, each once.",
    usage="sync outputs/SWEEP [--watch | --workspace]",
    examples={
        "sync outputs/mlp-1a2b3c4d": "what is not there yet",
        "sync outputs/mlp-1a2b3c4d --watch": "while the sweep runs, from another terminal",
        "sync outputs/mlp-1a2b3c4d --workspace": "and a view grouped by program (extra bridge-runner[workspaces])",
    },
    add_arguments=add_arguments,
    run=run,
    exit_codes={0: "the server has all of them", 1: "it has not, or it does not answer"},
    paths={"sweep": "sweep"},
)
