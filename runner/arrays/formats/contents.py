"""What a checkpoint holds: names, shapes and dtypes at once, and the arrays once they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from runner.arrays import declared_sizes, trees
from runner.arrays.declared_sizes import TooLargeError
from runner.errors import StorageError, listed

Tree = Any


class DamagedError(Exception):
    """A file does not hold what its first bytes promise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredArray:
    """An array that has not been read.

    Attributes:
      shape: Its shape.
      dtype: Its element type.
      read: Reads it; None where the format reads many at once.
      key: How the format finds it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray] | None = None
    key: Any = None


@dataclass(frozen=True)
class Placeholder:
    """A name that stands where an array should be, as in the `checkpoint` file of a T5X folder without its arrays."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A checkpoint that has been opened.

    Attributes:
      format: What wrote it, in words.
      place: The file or folder.
      tree: Nested dicts with text keys; leaves are `StoredArray`, `Placeholder` or NumPy numbers.
      texts: What the file says of itself.
      read: Reads several arrays at once; None if each reads itself.
      original: Reads everything in the structure that was saved, lists and tuples as lists; None if `tree` is that.
      lists: Where the tree was a list or tuple.
    """

    format: str
    place: Path
    tree: Tree
    texts: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[Sequence[StoredArray]], list[np.ndarray]] | None = None
    original: Callable[[], Any] | None = None
    lists: frozenset[tuple[str, ...]] = frozenset()

    def load(self, part: Tree) -> Tree:
        """`part` of the tree with NumPy arrays; nothing else is read.

        Raises:
          StorageError: An array is a placeholder, or damaged.
        """
        self._require_arrays(part)
        leaves, structure = jax.tree.flatten(part)
        stored = [leaf for leaf in leaves if isinstance(leaf, StoredArray)]
        try:
            declared_sizes.require_room((leaf.shape, leaf.dtype) for leaf in stored)
            arrays = iter(self.read(stored) if self.read else [leaf.read() for leaf in stored if leaf.read])
        except Exception as error:
            raise damaged(self.place, self.format, error) from error
        return jax.tree.unflatten(
            structure, [next(arrays) if isinstance(leaf, StoredArray) else leaf for leaf in leaves]
        )

    def _require_arrays(self, part: Tree) -> None:
        names = [leaf.name for _, leaf in trees.flatten(part) if isinstance(leaf, Placeholder)]
        if names:
            one = "is a placeholder" if len(names) == 1 else "are placeholders"
            raise StorageError(
                f"{self.place}: {listed(names)} {one}, not arrays: the folders of that name are not there",
                "copy the whole folder of the checkpoint",
            )


def damaged(place: Path, format: str, error: BaseException) -> StorageError:
    """The one sentence for a file that can't be read as what it is."""
    reason = str(error) if isinstance(error, (DamagedError, TooLargeError)) else f"{type(error).__name__} on reading"
    return StorageError(f"{place} is a damaged checkpoint ({format}): {reason}")


def named(leaves: Iterable[tuple[str, Any]]) -> Tree:
    """Nested dicts of leaves whose names are paths, joined by slashes, or else by dots.

    A file in which one name would be the parent of another stays as flat as it is.
    """
    pairs = list(leaves)
    sign = "/" if any("/" in name for name, _ in pairs) else "."
    paths = {tuple(name.split(sign)): leaf for name, leaf in pairs}
    parents = {path[:cut] for path in paths for cut in range(1, len(path))}
    if parents & paths.keys():
        return dict(pairs)
    return trees.nest(paths.items())


def dtype_named(name: str) -> np.dtype:
    """The element type that NumPy or ml_dtypes calls so.

    Raises:
      DamagedError: There is none.
    """
    try:
        return np.dtype(getattr(ml_dtypes, name, name))
    except TypeError:
        raise DamagedError(f"{name[:40]!r} is no element type") from None
