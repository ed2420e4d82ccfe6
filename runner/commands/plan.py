"""`bridge-runner plan`: shows what a sweep would do."""

from __future__ import annotations

import argparse

from runner.commands.typed.hydra_command import MULTIRUN, hydra_command
from runner.commands.typed.verb import Verb
from runner.launch.application import Act, SweepRequest, SweepResult


def show_plan(request: SweepRequest) -> SweepResult:
    """Prints the plan of a sweep; a dry run that writes nothing.

    Raises:
      UserError: A config can't run, or the folder can't be used.
    """
    from runner.records import find
    from runner.report.terminal import Terminal, describe_plan

    plan = request.plan()
    with Terminal() as terminal:
        for line in describe_plan(plan, find.read_trials(plan.folder)):
            terminal.line(line)
    return SweepResult()


PLAN = Act("plan", show_plan)


def run(typed: argparse.Namespace) -> int:
    """Plans the sweep of a command line and returns the exit code."""
    return hydra_command(["-m", *(word for word in typed.overrides if word not in MULTIRUN)], PLAN)


VERB = Verb(
    name="plan",
    summary="What a sweep would do: its runs, programs and folder. Runs and writes nothing.",
    usage="plan KEY=VALUE,VALUE …",
    examples={
        "plan seed=0,1,2 features=8,32": "every combination",
        "plan +experiment=width": "a named experiment",
    },
    add_arguments=lambda parser: None,
    run=run,
    takes_overrides=True,
)
