"""From what is typed to one checkpoint: roots of steps, steps with items, and `PATH#NAMES` for a part of a tree."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.arrays.formats import registry
from runner.arrays.formats.contents import Contents, StoredArray
from runner.arrays.host_saves import STEP_METADATA, TEMPORARY
from runner.errors import StorageError, listed, nearest
from runner.records.disk import plain_files

# What separates a path from names in the tree there.
SIGN = "#"

# `checkpoint_10`, `step-10`, `10`.
STEP = re.compile(r"(.*?)(\d+)")

# How deep checkpoints may be in a folder: a root of steps, a step, an item.
MAX_DEPTH = 3

# What big_vision writes next to its newest step: the rest of its name.
NEWEST = "-LAST"


def open_place(place: Path | str) -> tuple[Contents, tuple[str, ...]]:
    """Opens the checkpoint at `place`: of a root of steps the newest.

    Returns:
      What it holds, and the names that are to be followed in its tree.

    Raises:
      StorageError: There is none, or there are several that are no steps.
    """
    path, names = split(place)
    with _refused(path):
        return _descend(path, names)


def split(place: Path | str) -> tuple[Path, tuple[str, ...]]:
    """The file or folder that `place` begins with, and the names after its `#`.

    Raises:
      StorageError: There is no such file or folder, or it may not be read.
    """
    text = os.path.expanduser(place)
    with _refused(Path(text.partition(SIGN)[0])):
        return _split(text)


def _split(text: str) -> tuple[Path, tuple[str, ...]]:
    cuts = [len(text), *(match.start() for match in reversed(list(re.finditer(SIGN, text))))]
    for cut in cuts:
        head = Path(text[:cut])
        newest = head.with_name(f"{head.name}{NEWEST}") if head.name else head
        if text[:cut] and not os.path.lexists(head) and newest.is_file():
            head = head.with_name(f"{head.name}-{plain_files.read_bytes(newest).decode(errors='replace').strip()}")
        if text[:cut] and os.path.exists(head):
            return head, tuple(name for name in text[cut + 1 :].split("/") if name)
    raise _absent(Path(text.partition(SIGN)[0]))


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    """One sentence for what the system refuses."""
    try:
        yield
    except PermissionError as error:
        raise StorageError(f"{path} can't be read: permission denied", f"ls -ld {path}") from error
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror or error}") from error


def spelled(place: Path, names: Sequence[str]) -> str:
    """How a part of a tree is typed."""
    return f"{place}{SIGN}{'/'.join(names)}" if names else str(place)


def is_place(text: str) -> bool:
    """Whether `text` begins with the path of a checkpoint, followed by `#` and names."""
    head, sign, _ = text.partition(SIGN)
    return bool(sign and head) and os.path.exists(os.path.expanduser(head))


def _descend(path: Path, names: tuple[str, ...]) -> tuple[Contents, tuple[str, ...]]:
    while path.is_dir():
        if TEMPORARY in path.name or registry.is_tree(path):
            return registry.open_tree(path), names
        inner = {child.name: child for child in _checkpoints(path)}
        if names and names[0] in inner:
            path, names = inner[names[0]], names[1:]
        elif len(inner) == 1:
            path = next(iter(inner.values()))
        elif newest := _newest(list(inner)):
            path = inner[newest]
        elif inner and _is_step(path) and all(child.is_dir() and registry.is_tree(child) for child in inner.values()):
            return _together(path, inner), names
        else:
            raise _none(path) if not inner else _several(path, list(inner))
    return registry.open_file(path), names


def _checkpoints(folder: Path, depth: int = 0) -> list[Path]:
    """What is in a folder and is a checkpoint, or holds some; saves that never ended left out."""
    found = []
    for child in sorted(folder.iterdir()):
        try:
            if child.is_dir() and TEMPORARY not in child.name and ".tmp-" not in child.name:
                is_one = registry.is_tree(child) or (depth + 1 < MAX_DEPTH and bool(_checkpoints(child, depth + 1)))
            else:
                is_one = child.is_file() and registry.is_checkpoint_file(child)
        except OSError:
            continue
        if is_one:
            found.append(child)
    return found


def _newest(names: Sequence[str]) -> str | None:
    """The one with the greatest number, if only that tells them apart."""
    found = [STEP.fullmatch(os.path.splitext(name)[0]) for name in names]
    if not names or not all(found) or len({match[1] for match in found if match}) > 1:
        return None
    return max(names, key=lambda name: int(STEP.fullmatch(os.path.splitext(name)[0])[2]))  # type: ignore[index]


def _is_step(folder: Path) -> bool:
    return (folder / STEP_METADATA).is_file() or STEP.fullmatch(folder.name) is not None


def _together(folder: Path, inner: Mapping[str, Path]) -> Contents:
    """The items of a step as one tree."""
    parts = {name: registry.open_tree(path) for name, path in inner.items()}
    owners = {id(leaf): part for part in parts.values() for leaf in _leaves(part.tree)}

    def read(wanted: Sequence[StoredArray]) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for part in parts.values():
            own = [leaf for leaf in wanted if owners[id(leaf)] is part]
            found |= dict(zip(map(id, own), part.load(own), strict=True))
        return [found[id(leaf)] for leaf in wanted]

    format = next(iter(parts.values())).format
    return Contents(format=format, place=folder, tree={name: part.tree for name, part in parts.items()}, read=read)


def _leaves(tree: Any) -> list[StoredArray]:
    inner = tree.values() if isinstance(tree, Mapping) else ()
    return [leaf for child in inner for leaf in _leaves(child)] + ([tree] if isinstance(tree, StoredArray) else [])


def _absent(path: Path) -> StorageError:
    parent = next((one for one in path.parents if one.exists()), Path())
    if parent.is_dir() and not registry.is_tree(parent):
        near = None
        if os.access(parent, os.R_OK):
            near = nearest(path.relative_to(parent).parts[0], os.listdir(parent))
            near = near or _newest([child.name for child in _checkpoints(parent)])
        return StorageError(f"there is no file or folder {path}", near and str(parent / near))
    below = path.relative_to(parent).parts
    return StorageError(f"there is no file or folder {path}: names in a tree follow a {SIGN}", spelled(parent, below))


def _none(folder: Path) -> StorageError:
    names = listed(sorted(path.name for path in folder.iterdir()), 8)
    held = f"{folder} holds no checkpoint" + (f", only {names}" if names else ": it is empty")
    return StorageError(f"{held}; there are {registry.FORMATS}" if names else held)


def _several(folder: Path, names: Sequence[str]) -> StorageError:
    return StorageError(f"{folder} holds {len(names)} checkpoints: {listed(names, 8)}", str(folder / names[-1]))
