"""What `bridge-runner export` writes: a run's variables, for users without bridge-runner.

`nnx` is what Flax's checkpointing guide saves for a native module: `nnx.split(module)[1]` as an Orbax checkpoint. The
RNG state is the one that apply gave the layer (`bridge.apply_keys`); an import drops it, since Linen stores none.
`linen` is an Orbax checkpoint of the variables of the equivalent Linen layer (`runner.twins`).
`safetensors` is a single file of named arrays, for use without JAX.

Exports describe themselves: a JSON document next to the arrays has the leaves, their digests and the run's settings.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runner.arrays import trees
from runner.arrays.formats import safetensors_file
from runner.arrays.tree_diff import diff_trees
from runner.bridge import native, needs, twins
from runner.commands.derived.output_path import default_target, require_target, save
from runner.commands.migration import tree_mismatch
from runner.config.composing.composed import Config
from runner.config.settings.run import Run
from runner.errors import LayerError, StorageError, UserError, nearest
from runner.experiment.draft import Draft
from runner.experiment.saved_run import SavedRun, reload
from runner.launch import process
from runner.records import find
from runner.records.disk import files, plain_files
from runner.records.paths import RunFolder
from runner.records.record import Leaf, Record, Status
from runner.report.terminal import Terminal

NNX, LINEN, SAFETENSORS = KINDS = ("nnx", "linen", "safetensors")

# The description of an export: a file in an Orbax folder, a metadata string in a safetensors file.
DESCRIPTION = "bridge_runner"
DESCRIPTION_FILE = f"{DESCRIPTION}.json"
DESCRIPTION_VERSION = 1

Names = dict[str, np.ndarray]


def export(run: Path, to: str, *, out: Path | None = None, trust: bool = False) -> int:
    """Exports the variables of a saved run and prints where they are.

    Args:
      run: The run's folder.
      to: `nnx`, `linen` or `safetensors`.
      out: A new folder, or for safetensors a new file; by default in `exports`, next to the sweep's runs.
      trust: Whether modules other than ours and Flax's may be imported if the layer has to be built.

    Returns:
      0.

    Raises:
      UserError: No such run or kind, a damaged checkpoint, a layer without such a form, or an existing target.
    """
    if to not in KINDS:
        raise UserError(f"export: --to {to}: there are {', '.join(KINDS)}", f"--to {nearest(to, KINDS) or NNX}")
    if to == SAFETENSORS:
        safetensors_file.require_package()
    saved = SavedRun(find.find_run(run))
    folder, record = saved.folder, saved.record
    target = Path(os.path.expanduser(out or default_target(folder, to)))
    require_target(target, folder, by_orbax=to != SAFETENSORS)
    variables = saved.variables()
    if not record.variables:
        why = "the run failed" if record.status is Status.failed else f"the layer {record.layer} has no variables"
        raise UserError(f"{folder.path}: {why}, there is nothing to export", f"bridge-runner show {folder.path}")
    description = _description(folder, record, to)
    if to == SAFETENSORS:
        _write_tensors(target, variables, description)
    else:
        process.prepare_process([Config(run=Run())])
        saved.require_trust(trust=trust)
        tree, rng = _built(saved, variables, to)
        _write_orbax(target, tree, description | {"rng": rng})
    num_bytes = sum(leaf.num_bytes for leaf in record.variables)
    Terminal().line(f"{len(record.variables)} leaves, {num_bytes} bytes: {target}")
    return 0


def _built(saved: SavedRun, variables: Any, to: str) -> tuple[Any, list[str]]:
    """The tree to write when that requires building the layer, and the names of its RNG state."""
    folder, record = saved.folder, saved.record
    if saved.run.host.target:
        what = "native module" if to == NNX else "Linen twin"
        raise UserError(f"{folder.path} is a run of the host {record.host}, which has no {what}", "--to safetensors")
    if to == LINEN:
        _require_twin(saved.draft(), record)
        return variables, []
    module = reload(folder.path, as_="nnx", trust=True).module
    return native.state(module), native.rng_names(module)


def _require_twin(draft: Draft, record: Record) -> None:
    """Validates that the layer's Linen twin has the run's variables.

    Raises:
      UserError: There is no twin, or its variables differ.
    """
    model: Any = draft.layer.model
    twin = twins.twin_of(model.nnx_class, model.kwargs, draft.layer.call)
    if twin.layer is None:
        raise UserError(f"the layer {record.layer} has no Linen twin: {twin.why}", "--to nnx")
    try:
        wanted = needs.find_needs(twin.layer, draft.x, twin.name).variables
    except LayerError as error:
        raise UserError(f"the Linen twin of {record.layer} refuses: {error.what}", "--to nnx") from error
    wrong = tree_mismatch.sentences(diff_trees(trees.unbox(draft.variables), trees.unbox(wanted)))
    if wrong:
        raise UserError(f"the Linen twin of {record.layer}, {twin.name}, has another tree: {wrong}", "--to nnx")


def _description(folder: RunFolder, record: Record, to: str) -> dict[str, Any]:
    return {
        "version": DESCRIPTION_VERSION,
        "to": to,
        "run": folder.path.absolute().name,
        "run_id": record.run_id,
        "layer": record.layer,
        # A layer that stores all the RNGs it is given can only be restored into one that was given the same streams.
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
    """Parses a key that a record stores as a Python literal: `str`, `int` or `tuple`."""
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
    """Writes the checkpoint and its description atomically."""
    temporary = plain_files.temporary_name(target)
    try:
        save(tree, temporary)
        files.write_atomic(temporary / DESCRIPTION_FILE, json.dumps(description, indent=1).encode() + b"\n")
        os.rename(temporary, target)
    except OSError as error:
        raise StorageError(f"{target} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
