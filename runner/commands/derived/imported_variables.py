"""Reads exports and natively saved checkpoints as Linen variables. Never imports anything that a file names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.arrays import saved_trees, trees
from runner.arrays.formats import places, safetensors_file
from runner.arrays.tree_diff import diff_trees
from runner.commands.derived.exported_variables import DESCRIPTION, DESCRIPTION_FILE, DESCRIPTION_VERSION, Names
from runner.commands.derived.output_path import SUFFIX, require_target, save
from runner.commands.migration import tree_mismatch
from runner.errors import StorageError, UserError
from runner.records import find, store
from runner.report.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a Linen variable dict is expected to be.

    Attributes:
      tree: Shapes and element types.
      digests: Digests of its leaves by path, if known.
      source: Where this expectation comes from.
      strict: Whether a different digest means damage, or just a different value from that run's.
    """

    tree: Any
    digests: Mapping[str, str]
    source: str
    strict: bool


def import_variables(path: Path, *, like: Path | None = None, out: Path | None = None) -> int:
    """Writes an export, or a natively saved checkpoint, as an Orbax checkpoint of Linen variables.

    Imports nothing that the file names, and builds no layer.

    Args:
      path: A checkpoint of any format, or a part of one (`PATH#NAMES`).
      like: A run of the same layer, whose record describes the variables; required if `path` does not.
      out: A folder that must not exist yet; by default `<path>-variables`.

    Returns:
      0.

    Raises:
      UserError: The file can't be read, nothing describes the variables, or the leaves are not the expected ones.
    """
    place, _ = places.split(path)
    absolute = place if place.name else place.absolute()  # `.` has no name
    target = Path(os.path.expanduser(out or absolute.with_name(f"{absolute.name.removesuffix(SUFFIX)}-variables")))
    require_target(target)
    found, text = _read(path)
    wanted = _like(like) if like is not None else _described(path, text)
    leaves = _linen(found, [trees.spell(name) for name, _ in trees.flatten(wanted.tree)], rng=_described_rng(text))
    leaves = _narrowed(leaves, wanted.tree)
    _require_same(path, leaves, wanted)
    tree = trees.nest((name, leaves[trees.spell(name)]) for name, _ in trees.flatten(wanted.tree))
    save(tree, target)
    Terminal().line(f"{len(leaves)} leaves, {_compared(leaves, wanted)}: {target}")
    Terminal().line(f"start from them: bridge-runner KEY=… variables={target}")
    return 0


def _read(path: Path) -> tuple[Names, str | None]:
    """The arrays at `path` by dotted name, and their description; of a train state, only its variables."""
    contents, names = places.open_place(path)
    description = contents.place / DESCRIPTION_FILE
    text = contents.texts.get(DESCRIPTION)
    if contents.place.is_dir() and description.exists():
        text = description.read_text(errors="replace")
    if text is not None:
        tree = contents.load(saved_trees.follow(contents, names))
    else:
        found = saved_trees.find(contents, names, None)
        # The state of a native module is read as bare params: it has no collections.
        tree = found.variables[saved_trees.PARAMS] if found.is_bare else found.variables
    return {".".join(map(str, name)): np.asarray(leaf) for name, leaf in trees.flatten(tree)}, text


def _like(run: Path) -> Wanted:
    """The expected variables, from a run's record."""
    record = store.read_record(find.find_run(run))
    leaves = [(leaf.path, leaf.shape, leaf.dtype, leaf.digest) for leaf in record.variables]
    return _wanted(leaves, source=str(run), strict=False)


def _described(path: Path, text: str | None) -> Wanted:
    """The expected variables, from an export's description."""
    if text is None:
        raise UserError(
            f"{path} does not say what its arrays are: bridge-runner did not write it", f"import {path} --like RUN"
        )
    try:
        found = json.loads(text)
        if found["version"] != DESCRIPTION_VERSION:
            raise StorageError(
                f"{path}: its description has version {found['version']}, this program reads {DESCRIPTION_VERSION}"
            )
        leaves = [(leaf["path"], leaf["shape"], leaf["dtype"], leaf["digest"]) for leaf in found["leaves"]]
        return _wanted(leaves, source="its description", strict=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        damage = f"{type(error).__name__}: {error}"
        raise StorageError(f"{path}: its description is damaged: {damage}", f"import {path} --like RUN") from error


def _described_rng(text: str | None) -> set[str]:
    """Dotted names of a native module's keys and counts, which Linen does not store, from an export's description."""
    try:
        names = json.loads(text)["rng"] if text is not None else []
        return {stored for name in names for stored in _stored(name.replace("/", "."))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()  # a damaged description is refused where it has to be right


def _wanted(leaves: Sequence[tuple[Any, ...]], *, source: str, strict: bool) -> Wanted:
    pairs = [
        (tuple(map(str, path)), jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype)))
        for path, shape, dtype, _ in leaves
    ]
    digests = {trees.spell(path): digest for path, *_, digest in leaves}
    return Wanted(tree=trees.nest(pairs), digests=digests, source=source, strict=strict)


def _linen(found: Names, wanted: Sequence[str], *, rng: Collection[str] = ()) -> Names:
    """The arrays by their expected Linen paths; unexpected ones keep their name, but for `rng`, which are left out.

    In the native layout a leaf's path lacks the collection and, for a Variable, ends with `value`; in the
    Linen layout this also holds for metadata boxes.
    """
    dotted = {name: name.replace("/", ".") for name in wanted}
    is_linen = [name for name in dotted.values() if any(one in found for one in _stored(name))]
    is_native = [name for name in dotted.values() if any(one in found for one in _stored(_inner(name)))]
    as_native = len(is_native) > len(is_linen)
    leaves: Names = {}
    left = dict(found)
    # A leaf of a tuple has its Variable's `value` further up; a module of that name is preferred.
    for is_within in (False, True):
        for name in [name for name in wanted if name not in leaves]:
            own = _inner(dotted[name]) if as_native else dotted[name]
            stored = next((one for one in (_within(own) if is_within else _stored(own)) if one in left), None)
            if stored is not None:
                leaves[name] = left.pop(stored)
    unstored = _rng_names(left).union(rng) if as_native else set()
    return leaves | {name.replace(".", "/"): leaf for name, leaf in left.items() if name not in unstored}


def _narrowed(leaves: Names, wanted: Any) -> Names:
    """The leaves, with integers of few bits that a safetensors file holds as 8 bits as they were."""
    narrow = dict(leaves)
    for path, leaf in trees.flatten(wanted):
        name, dtype = trees.spell(path), leaf.dtype
        array = narrow.get(name)
        if array is not None and safetensors_file.WIDER.get(dtype.name) == array.dtype.name:
            same = array.astype(dtype)
            narrow[name] = same if (same.astype(array.dtype) == array).all() else array
    return narrow


def _stored(own: str) -> tuple[str, str]:
    return f"{own}.value", own


def _within(own: str) -> list[str]:
    parts = own.split(".")
    return [".".join([*parts[:at], "value", *parts[at:]]) for at in reversed(range(1, len(parts)))]


def _inner(dotted: str) -> str:
    return dotted.partition(".")[2]


def _rng_names(found: Names) -> set[str]:
    """Names of RNG streams: a key and a count at the same path, both unsigned."""
    streams = set()
    for name, leaf in found.items():
        stem = re.fullmatch(r"(.*\b)key(\.value)?", name)
        count = f"{stem[1]}count{stem[2] or ''}" if stem else ""
        if count in found and leaf.dtype == np.uint32 == found[count].dtype and leaf.ndim > found[count].ndim:
            streams |= {name, count}
    return streams


def _require_same(path: Path, leaves: Names, wanted: Wanted) -> None:
    """Validates that the leaves are the expected ones.

    Raises:
      StorageError: Leaves are missing or extra, or differ in shape, dtype or bits.
    """
    # By name: in a foreign file a leaf may sit where another leaf's parent would be.
    names = {trees.spell(name): leaf for name, leaf in trees.flatten(wanted.tree)}
    wrong = tree_mismatch.sentences(diff_trees(leaves, names))
    if wrong:
        raise StorageError(f"{path} is not what {wanted.source} says: {wrong}")
    if wanted.strict:
        changed = [name for name, leaf in leaves.items() if trees.array_digest(leaf) != wanted.digests[name]]
        if changed:
            bits = tree_mismatch.some([f"{name} has other bits" for name in changed])
            raise StorageError(f"{path} is not what was exported: {bits}", "export the run again")


def _compared(leaves: Names, wanted: Wanted) -> str:
    if wanted.strict:
        return "the same bits as exported"
    num = sum(trees.array_digest(leaf) == wanted.digests[name] for name, leaf in leaves.items())
    return f"{num} of them with the bits of {wanted.source}"
