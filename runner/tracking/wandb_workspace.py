"""A saved W&B workspace: the runs of a project grouped by program, with the charts that they have values for."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from typing import Any

from runner.errors import ServerError, UserError
from runner.tracking import payload
from runner.tracking.wandb_server import Server, captured, reason_of

TITLE = "Programs"
GROUP = "program"


def require() -> None:
    """Checks that workspaces can be built.

    Raises:
      UserError: Their package is not installed.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError("wandb-workspaces is not installed", "pip install 'bridge-runner[workspaces]'")


def make(entity: str, project: str) -> Any:
    """The workspace of a project, not yet saved: a row for each program, with its seeds inside, and charts."""
    reports, ws = _package()
    charts: list[Any] = [
        reports.ScatterPlot(x=reports.Config(axis), y=reports.SummaryMetric(number), title=f"{number} by {axis}")
        for number, axis in payload.AXES.items()
        if "/" not in axis
    ]
    charts.append(reports.LinePlot(x=payload.AXES[payload.LOSS], y=[payload.LOSS]))
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=[ws.Section(name="runs", panels=charts, is_open=True)],
        runset_settings=ws.RunsetSettings(groupby=[ws.Config(GROUP)]),
    )
    # The package draws another name for each: with one of our own, a project gets one such workspace.
    made._internal_name = f"nw-{key_of(entity, project)}-v"
    return made


def key_of(entity: str, project: str) -> str:
    """What the workspace of a project has in its address, after `nw=`."""
    return hashlib.sha256(f"{entity}/{project}/{TITLE}".encode()).hexdigest()[:11]


def save(server: Server, entity: str, project: str) -> tuple[str, bool]:
    """Saves the workspace of a project, unless it is there: what was changed in the browser stays.

    Returns:
      Its address, and whether it was made now.

    Raises:
      ServerError: The server does not take it.
    """
    _, ws = _package()
    url = f"{server.url}/{entity}/{project}?nw={key_of(entity, project)}"
    try:
        with captured():
            try:
                ws.Workspace.from_url(url)
                return url, False
            except ValueError:  # there is none
                make(entity, project).save()
    except Exception as error:
        raise ServerError(f"the W&B server at {server.url} saved no workspace: {reason_of(error)}") from error
    return url, True


def _package() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what pydantic 2 deprecates
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as ws
    return reports, ws
