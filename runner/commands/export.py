"""`bridge-runner export` and `import`: a run's variables for those who have no bridge-runner, and back.

`nnx` is what flax's checkpointing guide saves of a native module: `nnx.split(module)[1]` as an Orbax checkpoint. The
rng state is that which apply gave the layer (`bridge.apply_keys`); an import leaves it out, since Linen keeps none.
`linen` is an Orbax checkpoint of the variables of the Linen layer of the same meaning (`runner.twins`).
`safetensors` is one file of named arrays, for those who have no JAX.

What was exported describes itself: its leaves, their digests and the run's settings are in a JSON beside the arrays.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.arrays import checkpoint, renames, safetensors_file, trees
from runner.arrays.renames import SAME, Difference
from runner.bridge import native, twins, wrap
from runner.config.settings import Run
from runner.errors import LayerError, StorageError, UserError, nearest
from runner.experiment import saved_run
from runner.experiment.program import Draft
from runner.launch import process
from runner.records import paths, store
from runner.records.paths import RunFolder
from runner.records.record import Leaf, Record, Status
from runner.report.terminal import Terminal
from runner.sweep.plan import Config

NNX, LINEN, SAFETENSORS = KINDS = ("nnx", "linen", "safetensors")

# What describes an export: a file in an Orbax folder, a text in a safetensors file.
DESCRIPTION = "bridge_runner"
DESCRIPTION_FILE = f"{DESCRIPTION}.json"
DESCRIPTION_VERSION = 1

SUFFIX = ".safetensors"

# Of a tree that does not fit, so many leaves are named.
MAX_NAMED = 8

Names = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a Linen variable dict is to be.

    Attributes:
      tree: Shapes and element types.
      digests: Of its leaves by path, where they are known.
      source: Who says so.
      strict: Whether another digest is a damage, or only another value than that run's.
    """

    tree: Any
    digests: Mapping[str, str]
    source: str
    strict: bool


def export(run: Path, to: str, *, out: Path | None = None, trust: bool = False) -> int:
    """Writes the variables of a saved run as others keep them; prints where.

    Args:
      run: The run's folder.
      to: `nnx`, `linen` or `safetensors`.
      out: A folder, or for safetensors a file, that is not there yet; by default in `exports` beside the sweep's runs.
      trust: Whether modules that are neither ours nor flax's may be imported, where the layer is built.

    Returns:
      0.

    Raises:
      UserError: No such run or kind, a damaged checkpoint, a layer that has no such form, or a target that is there.
    """
    if to not in KINDS:
        raise UserError(f"export: --to {to}: there are {', '.join(KINDS)}", f"--to {nearest(to, KINDS) or NNX}")
    if to == SAFETENSORS:
        safetensors_file.require_package()
    folder = store.find_run(run)
    record = store.read_record(folder)
    target = Path(os.path.expanduser(out or default_target(folder, to)))
    require_target(target, folder, by_orbax=to != SAFETENSORS)
    variables = saved_run.read_variables(folder, record)
    if not record.variables:
        why = "the run failed" if record.status is Status.failed else f"the layer {record.layer} has no variables"
        raise UserError(f"{folder.path}: {why}, there is nothing to export", f"bridge-runner show {folder.path}")
    description = _description(folder, record, to)
    if to == SAFETENSORS:
        _write_tensors(target, variables, description)
    else:
        process.prepare_process([Config(run=Run())])
        saved_run.require_trust(saved_run.config_of(record), trust=trust)
        tree, rng = _built(folder, record, variables, to)
        _write_orbax(target, tree, description | {"rng": rng})
    num_bytes = sum(leaf.num_bytes for leaf in record.variables)
    Terminal().line(f"{len(record.variables)} leaves, {num_bytes} bytes: {target}")
    return 0


def import_variables(path: Path, *, like: Path | None = None, out: Path | None = None) -> int:
    """Writes what was exported, or what somebody saved natively, as an Orbax checkpoint of Linen variables.

    Nothing that the file names is imported, and no layer is built.

    Args:
      path: An Orbax folder or a safetensors file.
      like: A run of the same layer, whose record says what the variables are; needed where `path` does not.
      out: A folder that is not there yet; by default `<path>-variables`.

    Returns:
      0.

    Raises:
      UserError: Nothing readable, nothing that says what the variables are, or other leaves than are wanted.
    """
    beside = path if path.name else path.absolute()  # `.` has no name of its own
    target = Path(os.path.expanduser(out or beside.with_name(f"{beside.name.removesuffix(SUFFIX)}-variables")))
    require_target(target)
    found, text = _read(path)
    wanted = _like(like) if like is not None else _described(path, text)
    leaves = _linen(found, [trees.spell(name) for name, _ in trees.flatten(wanted.tree)])
    _require_same(path, leaves, wanted)
    tree = trees.nest((name, leaves[trees.spell(name)]) for name, _ in trees.flatten(wanted.tree))
    save(tree, target)
    Terminal().line(f"{len(leaves)} leaves, {_compared(leaves, wanted)}: {target}")
    Terminal().line(f"start from them: bridge-runner KEY=… variables={target}")
    return 0


# Export.


def default_target(folder: RunFolder, to: str) -> Path:
    """Where what is made of a run goes: into `exports` beside the sweep's runs. Verify knows the run's own files."""
    path = folder.path.absolute()
    sweep = path.parent.parent if path.parent.name == "runs" else path.parent
    return sweep / "exports" / (f"{path.name}{SUFFIX}" if to == SAFETENSORS else f"{path.name}-{to}")


def require_target(target: Path, folder: RunFolder | None = None, *, by_orbax: bool = True) -> None:
    """Judges whether `target` can be written.

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


def _built(folder: RunFolder, record: Record, variables: Any, to: str) -> tuple[Any, list[str]]:
    """The tree that is written where the layer must be built for it, and the names of the rng state in it."""
    config = saved_run.config_of(record)
    if config.host.target:
        what = "native module" if to == NNX else "Linen twin"
        raise UserError(f"{folder.path} is a run of the host {record.host}, which has no {what}", "--to safetensors")
    if to == LINEN:
        _require_twin(saved_run.rebuild(folder, config), record)
        return variables, []
    module = saved_run.reload(folder.path, as_="nnx", trust=True).module
    return native.state(module), native.rng_names(module)


def _require_twin(draft: Draft, record: Record) -> None:
    """Judges whether the Linen twin of the layer has the run's variables.

    Raises:
      UserError: There is no twin, or it has others.
    """
    model: Any = draft.layer.model
    twin = twins.twin_of(model.nnx_class, model.kwargs, draft.layer.call)
    if twin.layer is None:
        raise UserError(f"the layer {record.layer} has no Linen twin: {twin.why}", "--to nnx")
    try:
        wanted = wrap.find_needs(twin.layer, draft.x, twin.name).variables
    except LayerError as error:
        raise UserError(f"the Linen twin of {record.layer} refuses: {error.what}", "--to nnx") from error
    wrong = _sentences(renames.compare(trees.unbox(draft.variables), trees.unbox(wanted)))
    if wrong:
        raise UserError(f"the Linen twin of {record.layer}, {twin.name}, has another tree: {wrong}", "--to nnx")


def _description(folder: RunFolder, record: Record, to: str) -> dict[str, Any]:
    return {
        "version": DESCRIPTION_VERSION,
        "to": to,
        "run": folder.path.absolute().name,
        "run_id": record.run_id,
        "layer": record.layer,
        # A layer that keeps all the rngs that it is given restores into one that was given the same streams.
        "streams": record.streams,
        "settings": record.settings,
        "leaves": [_leaf(leaf) for leaf in record.variables],
    }


def _leaf(leaf: Leaf) -> dict[str, Any]:
    return {
        "name": ".".join(str(part) for part in leaf.path),
        "collection": str(leaf.path[0]),
        "path": leaf.path,
        "keys": [_key_type(part) for part in leaf.path],
        "shape": leaf.shape,
        "dtype": leaf.dtype,
        "axes": leaf.names,
        "digest": leaf.digest,
    }


def _key_type(part: Any) -> str:
    """`str`, `int`, or `tuple` of a key that a record keeps spelt as Python spells it."""
    if isinstance(part, int):
        return "int"
    try:
        return "tuple" if isinstance(ast.literal_eval(part), tuple) else "str"
    except (ValueError, SyntaxError):
        return "str"


def _write_tensors(target: Path, variables: Any, description: Mapping[str, Any]) -> None:
    arrays: Names = {}
    for path, leaf in trees.flatten(variables):
        name = ".".join(str(part) for part in path)
        if name in arrays:
            raise UserError(f"two leaves would be one tensor, {name}", "--to nnx")
        arrays[name] = leaf
    target.parent.mkdir(parents=True, exist_ok=True)
    safetensors_file.write(target, arrays, {"format": "np", DESCRIPTION: json.dumps(description)})


def _write_orbax(target: Path, tree: Any, description: Mapping[str, Any]) -> None:
    """Writes the checkpoint with its description in it: both, or neither."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        save(tree, beside)
        store.write_atomic(beside / DESCRIPTION_FILE, json.dumps(description, indent=1).encode() + b"\n")
        os.rename(beside, target)
    except OSError as error:
        raise StorageError(f"{target} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


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


# Import.


def _read(path: Path) -> tuple[Names, str | None]:
    """The arrays at `path` by dotted name, and the description that is beside them."""
    if path.is_file():
        arrays, metadata = safetensors_file.read(path)
        return arrays, metadata.get(DESCRIPTION)
    if not path.is_dir():
        raise StorageError(f"{path}: there is no such file or folder", "bridge-runner export RUN --to nnx")
    try:
        tree = checkpoint.restore(path)
    except checkpoint.CheckpointError as error:
        raise StorageError(f"{path} can't be restored: {error.__cause__ or error}") from error
    beside = path / DESCRIPTION_FILE
    text = beside.read_text(errors="replace") if beside.exists() else None
    return {".".join(map(str, name)): np.asarray(leaf) for name, leaf in trees.flatten(tree)}, text


def _like(run: Path) -> Wanted:
    """What the variables of a run are."""
    record = store.read_record(store.find_run(run))
    leaves = [(leaf.path, leaf.shape, leaf.dtype, leaf.digest) for leaf in record.variables]
    return _wanted(leaves, source=str(run), strict=False)


def _described(path: Path, text: str | None) -> Wanted:
    """What the description of an export says."""
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


def _wanted(leaves: Sequence[tuple[Any, ...]], *, source: str, strict: bool) -> Wanted:
    pairs = [
        (tuple(map(str, path)), jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype)))
        for path, shape, dtype, _ in leaves
    ]
    digests = {trees.spell(path): digest for path, *_, digest in leaves}
    return Wanted(tree=trees.nest(pairs), digests=digests, source=source, strict=strict)


def _linen(found: Names, wanted: Sequence[str]) -> Names:
    """The arrays by their Linen paths, as they are wanted; what nobody wants keeps its name.

    In the native layout a leaf has its path without the collection, and `value` after it where it is a Variable; in the
    Linen layout a metadata box is spelt so too.
    """
    dotted = {name: name.replace("/", ".") for name in wanted}
    is_linen = [name for name in dotted.values() if name in found or f"{name}.value" in found]
    is_native = [name for name in dotted.values() if _inner(name) in found or f"{_inner(name)}.value" in found]
    as_native = len(is_native) > len(is_linen)
    leaves: Names = {}
    left = dict(found)
    for name, spelt in dotted.items():
        own = _inner(spelt) if as_native else spelt
        stored = next((one for one in (f"{own}.value", own) if one in left), None)
        if stored is not None:
            leaves[name] = left.pop(stored)
    rng = _rng_names(left) if as_native else set()
    return leaves | {name.replace(".", "/"): leaf for name, leaf in left.items() if name not in rng}


def _inner(dotted: str) -> str:
    return dotted.partition(".")[2]


def _rng_names(found: Names) -> set[str]:
    """Names of rng streams: a key and a count of draws in one place, both unsigned."""
    streams = set()
    for name, leaf in found.items():
        stem = re.fullmatch(r"(.*\b)key(\.value)?", name)
        count = f"{stem[1]}count{stem[2] or ''}" if stem else ""
        if count in found and leaf.dtype == np.uint32 == found[count].dtype and leaf.ndim > found[count].ndim:
            streams |= {name, count}
    return streams


def _require_same(path: Path, leaves: Names, wanted: Wanted) -> None:
    """Judges whether the leaves are those that are wanted.

    Raises:
      StorageError: Leaves are missing, extra, or of another shape, element type or bits.
    """
    # By name: a stranger's leaves may lie where another one's parent would be.
    names = {trees.spell(name): leaf for name, leaf in trees.flatten(wanted.tree)}
    wrong = _sentences(renames.compare(leaves, names))
    if wrong:
        raise StorageError(f"{path} is not what {wanted.source} says: {wrong}")
    if wanted.strict:
        changed = [name for name, leaf in leaves.items() if trees.array_digest(leaf) != wanted.digests[name]]
        if changed:
            bits = _some([f"{name} has other bits" for name in changed])
            raise StorageError(f"{path} is not what was exported: {bits}", "export the run again")


def _compared(leaves: Names, wanted: Wanted) -> str:
    if wanted.strict:
        return "the same bits as exported"
    num = sum(trees.array_digest(leaf) == wanted.digests[name] for name, leaf in leaves.items())
    return f"{num} of them with the bits of {wanted.source}"


def _sentences(found: Sequence[Difference]) -> str:
    return _some([_sentence(item) for item in found if item.kind != SAME])


def _sentence(item: Difference) -> str:
    if item.old is None:
        return f"{item.new} is missing" + (f" (the nearest is {item.nearest})" if item.nearest else "")
    if item.new is None:
        return f"{item.old} is extra"
    if item.old != item.new:
        return f"{item.new} is missing (it may be {item.old})"
    return f"{item.new} is {item.was}, wanted {item.wanted}"


def _some(sentences: Sequence[str]) -> str:
    more = len(sentences) - MAX_NAMED
    return ", ".join(sentences[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
