"""Where a command writes what it makes of a run, and a checkpoint written there."""

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
    """Where what is made of a run goes: into `exports` beside the sweep's runs. Verify knows the run's own files."""
    path = folder.path.absolute()
    sweep = path.parent.parent if path.parent.name == "runs" else path.parent
    return sweep / "exports" / (f"{path.name}{SUFFIX}" if to == "safetensors" else f"{path.name}-{to}")


def require_target(target: Path, folder: RunFolder | None = None, *, by_orbax: bool = True) -> None:
    """Checks whether `target` can be written.

    Args:
      target: A folder, or a file, that is not to be there.
      folder: The run that is written elsewhere.
      by_orbax: Whether Orbax writes it.

    Raises:
      StorageError: It is there, it is in the run's folder, or Orbax would not find it again.
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
    """A path beside `target` where nothing is."""
    stem, suffix = target.name.removesuffix(SUFFIX), SUFFIX if target.name.endswith(SUFFIX) else ""
    numbered = (target.with_name(f"{stem}-{number}{suffix}") for number in itertools.count(2))
    return next(path for path in numbered if not path.exists())


def save(tree: Any, target: Path) -> None:
    """Writes a checkpoint at `target`, which is not there yet.

    Raises:
      StorageError: It can't be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(tree, target)
    except checkpoint.CheckpointError as error:
        raise StorageError(f"{target} can't be written: {error}") from error
