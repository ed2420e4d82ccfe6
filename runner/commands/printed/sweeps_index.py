"""Writes the index of a folder of sweeps: each with a link to its report, and its numbers over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from runner.errors import StorageError, UserError
from runner.records import find, paths, store
from runner.records.disk import files
from runner.records.paths import SweepFolder
from runner.report.html import index_data
from runner.report.html.page import index_html
from runner.report.terminal import Terminal

NAME = "index.html"


def is_folder_of_sweeps(path: Path) -> bool:
    """Whether `path` is no sweep itself and holds some."""
    return not SweepFolder(path).plan.exists() and bool(find.find_sweeps(path))


def write(path: Path, *, watch: bool) -> int:
    """Writes `index.html` of the sweeps in `path`, from plans and journals; a sweep that is damaged is named as such.

    Raises:
      UserError: The index was to be served.
      StorageError: The page can't be written.
    """
    if watch:
        raise UserError(f"{path} holds sweeps, and --watch follows one sweep", f"bridge-runner report {path}")
    sweeps = sorted((_entry(sweep) for sweep in find.find_sweeps(path)), key=lambda one: one.get("written_at", ""))
    page, target = index_html(index_data.data(paths.shown(path), sweeps)), path / NAME
    try:
        files.write_atomic(target, page)
    except OSError as error:
        raise StorageError(f"{target}: {error.strerror or error}", f"bridge-runner ls {path}") from error
    terminal = Terminal()
    terminal.line(
        f"{target}: {len(sweeps)} sweep{'s' * (len(sweeps) != 1)}, {len(page) / 1e6:.1f} MB, opens in any browser"
    )
    for sweep in sweeps:
        if "error" in sweep:
            terminal.line(f"  left out: {sweep['error']}")
    return 0


def _entry(sweep: SweepFolder) -> dict[str, Any]:
    try:
        plan, rows = store.read_plan(sweep), find.read_rows(sweep)
    except StorageError as error:
        return index_data.damaged(sweep.name, error.what)
    return index_data.entry(plan, rows, quote(sweep.path.name), has_report=sweep.report.exists())
