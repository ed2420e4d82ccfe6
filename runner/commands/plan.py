"""`bridge-runner plan`: what a sweep would do."""

from __future__ import annotations

from runner.launch.application import Act, SweepRequest, SweepResult


def show_plan(request: SweepRequest) -> SweepResult:
    """Prints the plan of a sweep; runs and writes nothing.

    Raises:
      UserError: A config that can't run, or a folder that can't be used.
    """
    plan = request.plan()
    from runner.records import store
    from runner.report.terminal import Terminal, describe_plan

    with Terminal() as terminal:
        for line in describe_plan(plan, store.read_trials(plan.folder)):
            terminal.line(line)
    return SweepResult()


PLAN = Act("plan", show_plan)
