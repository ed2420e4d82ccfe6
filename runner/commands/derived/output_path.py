"""Picks and validates where a command writes what it derives from a run, and writes checkpoints there."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from runner.arrays import checkpoint
from runner.errors import StorageError
from runner.records import paths
from runner.records.paths import RunFolder

SUFFIX = ".safetensors"


def default_target(folder: RunFolder, to: str) -> Path:
    """Default path for exports of a run: `exports` next to the sweep's runs, since verify knows a run's own files."""
    path = folder.path.absolute()
    sweep = path.parent.parent if path.parent.name == "runs" else path.parent
    return sweep / "exports" / (f"{path.name}{SUFFIX}" if to == "safetensors" else f"{path.name}-{to}")


def require_target(target: Path, folder: RunFolder | None = None, *, by_orbax: bool = True) -> None:
    """Validates that `target` can be written.

    Args:
      target: A folder or file that must not exist yet.
      folder: The run that it is derived from.
      by_orbax: Whether Orbax writes it.

    Raises:
      StorageError: It exists, it is in the run's folder, or Orbax would not find it again.
    """
    if folder is not None and target.resolve().is_relative_to(folder.path.resolve()):
        foreign = f"{target} is inside the run's folder, and verify would call it foreign"
        raise StorageError(foreign, "the same without --out")
    if by_orbax:
        paths.require_plain(target, "--out with letters, digits, . _ and -")
    if target.exists():
        raise StorageError(f"{target} is there already and is not overwritten", f"--out {_another(target)}")
    paths.require_writable(target.parent)


def _another(target: Path) -> Path:
    """An unused path next to `target`."""
    if target.name in ("", ".."):  # ".", "/" and ".." have no name to number
        target = target / "export"
    stem, suffix = target.name.removesuffix(SUFFIX), SUFFIX if target.name.endswith(SUFFIX) else ""
    numbered = (target.with_name(f"{stem}-{number}{suffix}") for number in itertools.count(2))
    return next(path for path in numbered if not path.exists())


def save(tree: Any, target: Path) -> None:
    """Writes a checkpoint to `target`, which must not exist yet.

    Raises:
      StorageError: It can't be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(tree, target)
    except checkpoint.CheckpointError as error:
        raise StorageError(f"{target} can't be written: {error}") from error
