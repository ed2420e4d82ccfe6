"""Suggests the sweep or run that a mistyped path most likely meant."""

from __future__ import annotations

import argparse
import glob
import os
from pathlib import Path

from runner.commands.typed.verb import PROGRAM, PathKind, Verb
from runner.errors import StorageError, nearest
from runner.records.find import find_run, find_sweeps
from runner.records.paths import SweepFolder

DEFAULT_ROOT = Path("outputs")


def suggest(verb: Verb, typed: argparse.Namespace, error: StorageError) -> str | None:
    """The command with the wrong path replaced by the nearest sweep or run; None if nothing is near.

    Args:
      verb: The verb.
      typed: Its parsed arguments.
      error: The error that it raised.
    """
    known = {dest: _as_paths(vars(typed).get(dest)) for dest in verb.paths}
    for dest, kind in verb.paths.items():
        for path in known[dest]:
            found = None if _is_there(path, kind) else find(path, kind)
            if found is not None and str(path) in error.what:
                words = [str(found if one == path else one) for dest in known for one in known[dest]]
                return f"{PROGRAM} {verb.name} {' '.join(words)}"
    return None


def find(path: Path, kind: PathKind) -> Path | None:
    """The nearest match to `path` of this kind.

    Args:
      path: A path with nothing of this kind; may contain wildcards.
      kind: What the command expects.
    """
    text = os.path.expanduser(path)
    if glob.has_magic(text):
        by_number = os.path.join(os.path.dirname(text), "runs", f"{os.path.basename(text)}-*")
        matches = sorted({*glob.glob(text), *glob.glob(by_number)})
        near = next((Path(match) for match in matches if _is_there(Path(match), kind)), None)
        if near is not None:
            return near
    for root in (Path(text), DEFAULT_ROOT / text):
        near = _along(root, kind)
        if near is not None and _is_there(near, kind):
            return near
    return None


def _along(path: Path, kind: PathKind) -> Path | None:
    """`path` with each missing part replaced by the nearest existing one."""
    here = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        if kind in ("run", "either") and SweepFolder(here).plan.exists() and part != "runs":
            near = _run_of(here, part)
            return here / near.name.partition("-")[0] if near is not None else None
        following = here / part
        if not following.is_dir():
            if here.name == "runs":
                return _run_of(here.parent, part)
            close = nearest(_plain(part), [entry.name for entry in _folders(here)])
            if close is None:
                return None
            following = here / close
        here = following
    return _run_of(here, "") if kind == "run" else here


def _run_of(sweep: Path, name: str) -> Path | None:
    """The run of a sweep with this name or number, else a similar one, else the first."""
    names = [entry.name for entry in _folders(sweep / "runs")]
    number = name.partition("-")[0]
    same = [one for one in names if one.partition("-")[0] == number]
    ordered = sorted(names, key=lambda one: int(one.partition("-")[0]) if one.partition("-")[0].isdigit() else 0)
    close = same[0] if same else nearest(_plain(name), names) or next(iter(ordered), None)
    return sweep / "runs" / close if close else None


def _plain(part: str) -> str:
    return part.replace("*", "").replace("?", "")


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _is_there(path: Path, kind: PathKind) -> bool:
    if kind != "run" and SweepFolder(path).plan.exists():
        return True
    if kind == "sweeps":
        return bool(find_sweeps(path))
    if kind == "sweep":
        return False
    try:
        find_run(path)
    except StorageError:
        return False
    return True


def _as_paths(value: object) -> list[Path]:
    values = value if isinstance(value, list) else [value]
    return [Path(str(one)) for one in values if one is not None]
