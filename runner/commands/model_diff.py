"""`bridge-runner diff OLD NEW`: what a new layer changed in the tree, the names that fix it, and the proof.

A side is a run, any Orbax checkpoint, a host in Python (`pkg.mod:Net(width=8)`), a host with a checkpoint
(`pkg.mod:Net(width=8)@PATH`), or a config (`layer=mlp features=8`).
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from runner.arrays import checkpoint, closeness, trees
from runner.arrays import renames as arrays_renames
from runner.arrays.renames import EXTRA, MISSING, MOVED, SAME, LeafDiff
from runner.bridge import rngs, targets, wrap
from runner.bridge.needs import Needs, find_needs, names_in_order
from runner.bridge.wrap import Bridged
from runner.commands import output_path
from runner.commands.json_output import print_json
from runner.config import compose
from runner.config.composed import Config
from runner.config.settings import Run
from runner.errors import ConfigError, LayerError, StorageError, UserError, no_exit
from runner.experiment import identity, inputs
from runner.experiment.draft import make_draft
from runner.experiment.saved_run import SavedRun
from runner.launch import process
from runner.records import find, paths, store
from runner.records.paths import RunFolder
from runner.report.terminal import Terminal

EXIT_DIFFERENT = 1

# Longer tables show only the rows that differ.
MAX_ROWS = 40

SUGGESTED = "a run, an Orbax checkpoint, pkg.mod:Host(width=8), pkg.mod:Host(width=8)@CHECKPOINT, or layer=mlp"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two sides of a comparison.

    Attributes:
      label: As it was typed.
      folder: Where its checkpoint is, if any.
      variables: Arrays, or None if only shapes are known.
      model: The model to apply, or None for a bare checkpoint.
      needs: What the model needs.
      order: Paths of its modules, in creation order.
      x: The input that it is applied to.
      output: The recorded output of a run.
      foreign: Untrusted modules that a run imports: its model is then not built.
    """

    label: str
    folder: Path | None = None
    variables: Any = None
    model: Bridged | None = None
    needs: Needs | None = None
    order: Sequence[Sequence[str]] = ()
    x: Any = None
    output: Mapping[str, np.ndarray] | None = None
    foreign: Sequence[str] = ()

    @property
    def shapes(self) -> Any:
        """Shapes and dtypes of the side's variables."""
        return self.variables if self.variables is not None else (self.needs.variables if self.needs else {})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a diff.

    Attributes:
      input_shape: Shape of x for hosts, if no run or config gives it.
      input_dtype: Its dtype.
      call: Keyword arguments for every call of a host.
      apply: Whether to write the renamed checkpoint.
      as_json: Whether to print JSON.
      trust: Whether a run may import modules other than ours and Flax's.
    """

    input_shape: tuple[int, ...] | None = None
    input_dtype: str = "float32"
    call: Mapping[str, Any]
    apply: bool = False
    as_json: bool = False
    trust: bool = False


def diff(old: str, new: str, options: Options) -> int:
    """Prints how the variables of `new` differ from those of `old`.

    Returns:
      0 if the trees are the same, else 1.

    Raises:
      UserError: A side is none of these, or `--apply` has no checkpoint to rename.
    """
    process.prepare_process([Config(run=Run())])
    with nnx.use_eager_sharding(False):  # we compare axis names as they are; they shard nothing here
        return _diff(old, new, options)


def _diff(old: str, new: str, options: Options) -> int:
    first, second = read_side(old, options), read_side(new, options)
    x = first.x if first.x is not None else second.x
    first, second = _traced(first, x, options), _traced(second, x, options)
    renames = arrays_renames.counted_anew(first.shapes, second.shapes, second.order)
    found = arrays_renames.compare(first.shapes, second.shapes, renames)
    renames = {item.old: item.new for item in found if item.old and item.new and item.old != item.new}
    proof = _proof(first, second, renames, found, x)
    different = [item for item in found if item.kind != SAME]
    written = _write_renamed(first, renames, found) if options.apply else None
    if options.as_json:
        names = arrays_renames.module_names(renames)
        leaves = [asdict(item) for item in found]
        answer = {"leaves": leaves, "names": names, "renames": renames, "proof": proof}
        print_json(answer | {"written": written and str(written)}, indent=1)
        return EXIT_DIFFERENT if different else 0
    terminal = Terminal()
    for line in describe(first, second, found, renames, proof):
        terminal.line(line)
    if written is not None:
        terminal.line(f"written: {written}")
    return EXIT_DIFFERENT if different else 0


def read_side(text: str, options: Options) -> Side:
    """The side that `text` names.

    Raises:
      UserError: It is nothing that can be compared.
    """
    path = Path(os.path.expanduser(text))
    if not os.path.exists(path) and os.path.exists(path.parent / "sweep.json"):  # a run given by a prefix of its name
        path = find.find_run(path).path
    if os.path.exists(path):  # a config may exceed the file name limit, at which pathlib raises
        if _is_run(path):
            return _run_side(text, path, trust=options.trust)
        return Side(label=text, folder=path, variables=read_variables(path))
    host, _, folder = text.partition("@")
    if ":" in host and "=" not in host.partition("(")[0]:
        side = Side(label=text, model=Bridged(model=host_of(host), call=options.call), x=_input(options))
        if not folder:
            return side
        place = Path(os.path.expanduser(folder))
        return replace(side, folder=place, variables=read_variables(place))
    if "=" in text:
        run = compose.compose(text.split())
        draft = make_draft(run, identity.identity_of(run))
        return Side(label=text, model=draft.model, x=inputs.make_input(run.input, run.input_shape))
    raise UserError(f"{text} is neither a folder nor a host nor a config", SUGGESTED)


def read_variables(path: Path) -> Any:
    """The variable dict in any checkpoint, including one of bare params or of a train state with params in it.

    Raises:
      StorageError: There is no checkpoint.
    """
    try:
        return checkpoint.as_variables(checkpoint.restore(path))
    except checkpoint.CheckpointError as error:
        raise StorageError(str(error)) from error


def host_of(text: str) -> Any:
    """The Linen module that `pkg.mod:Host(width=8)` creates; its arguments are Python literals.

    Raises:
      UserError: It is not a call of a Linen module with literals, or the module rejects them.
    """
    suggestion = "pkg.mod:Host(width=8)"
    module, _, call = text.partition(":")
    try:
        node = ast.parse(call if "(" in call else f"{call}()", mode="eval").body
        if not isinstance(node, ast.Call):
            raise ValueError
        arguments = [ast.literal_eval(item) for item in node.args]
        kwargs = {str(item.arg): ast.literal_eval(item.value) for item in node.keywords}
        name = ast.unparse(node.func)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{text} is no host with literal arguments", suggestion) from error
    found = targets.import_path(f"{module}:{name}", key="host")
    if not wrap.is_linen(found):
        raise UserError(f"{text}: {name} is no flax.linen.Module", suggestion)
    try:
        with no_exit():
            return found(*arguments, **kwargs)
    except Exception as error:
        raise LayerError(f"{text}: {type(error).__name__}: {error}") from error


def describe(
    old: Side, new: Side, found: Sequence[LeafDiff], renames: Mapping[str, str], proof: Mapping[str, Any]
) -> list[str]:
    """The differences as text: the table, what Linen renumbered, the names, and the proof."""
    counts = Counter(item.kind for item in found)
    shown = [item for item in found if item.kind != SAME or len(found) <= MAX_ROWS]
    lines = [f"old  {old.label}", f"new  {new.label}", ""]
    rows = [(item.kind, *_where(item), _kinds(item)) for item in shown]
    widths = [max((len(row[index]) for row in rows), default=0) for index in range(3)]
    lines += ["  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows]
    lines += [", ".join(f"{number} {kind}" for kind, number in counts.items()) or "no leaves"]
    names = arrays_renames.module_names(renames)
    if names:
        lines += [
            "",
            "A module without a name is renumbered, so its variables moved. Give these names in the new host:",
        ]
        width = max(len(path) for path in names)
        lines += [f"  {path:<{width}}  name='{name}'" for path, name in names.items()]
        lines.append("or rename the old checkpoint: the same command with --apply")
    return [*lines, "", f"proof: {proof['sentence']}"] if proof["sentence"] else lines


def _where(item: LeafDiff) -> tuple[str, str]:
    if item.kind == MISSING:
        return str(item.new), f"nearest {item.nearest}" if item.nearest else ""
    return str(item.old), f"→ {item.new}" if item.new and item.new != item.old else ""


def _kinds(item: LeafDiff) -> str:
    if item.was and item.wanted and item.was != item.wanted:
        return f"{item.was}, wanted {item.wanted}"
    return str(item.was or item.wanted)


def _is_run(path: Path) -> bool:
    return (path if path.name == "record.json" else path / "record.json").exists()


def _run_side(text: str, path: Path, *, trust: bool) -> Side:
    saved = SavedRun(find.find_run(path))
    folder, record = saved.folder, saved.record
    foreign = [] if trust else targets.foreign_paths(saved.run)
    if foreign:
        variables = saved.variables()
        return Side(label=text, folder=folder.checkpoint, variables=variables, foreign=foreign)
    draft = saved.draft()
    return Side(
        label=text,
        folder=folder.checkpoint,
        variables=trees.with_keys_of(saved.variables(), draft.needs.variables),
        model=draft.model,
        x=saved.x,
        # A mesh may round differently from a single device, so recompute its output here.
        output=store.read_output(folder, record) if record.output and record.mesh is None else None,
    )


def _input(options: Options) -> Any:
    if options.input_shape is None:
        return None
    try:
        dtype = jnp.dtype(options.input_dtype)
    except TypeError:
        raise ConfigError("--input-dtype", options.input_dtype, "no such dtype", "--input-dtype float32") from None
    values = np.random.default_rng(0)
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.asarray(values.integers(0, 2, options.input_shape), dtype)
    return jnp.asarray(values.standard_normal(options.input_shape), dtype)


def _traced(side: Side, x: Any, options: Options) -> Side:
    """`side` with what its model needs."""
    if side.model is None:
        return side
    if x is None:
        raise UserError(f"{side.label}: the shape of its input is not known", "--input '[2,8]'")
    try:
        needs = find_needs(side.model, x, side.label)
    except LayerError as error:
        raise LayerError(error.what, "another --input, or --call NAME=VALUE") from error
    variables = side.variables if side.variables is None else trees.with_keys_of(side.variables, needs.variables)
    names = names_in_order(side.model, needs.streams, x)
    order = [(*path, name) for path, here in names.items() for name in here]
    return replace(side, needs=needs, variables=variables, order=order)


def _proof(old: Side, new: Side, renames: Mapping[str, str], found: Sequence[LeafDiff], x: Any) -> dict[str, Any]:
    """Whether `new`, applied to the renamed variables of `old`, gives the output of `old`."""

    def say(verdict: bool | None, sentence: str) -> dict[str, Any]:
        return {"same_bits": verdict, "sentence": sentence}

    foreign = dict.fromkeys([*old.foreign, *new.foreign])
    if foreign:
        return say(None, f"none, since building it imports {', '.join(foreign)}: the same with --trust")
    if old.variables is None or new.model is None or new.needs is None:
        return say(None, "")
    if old.model is None and old.output is None:
        return say(None, "none without the old host: type pkg.mod:OldHost(…)@CHECKPOINT as the old one")
    bad = [item for item in found if item.kind not in (SAME, MOVED, EXTRA)]
    if bad:
        return say(None, f"none while {len(bad)} leaves are missing or of another kind")
    before = old.output
    if before is None or old.x is None:
        assert old.model is not None
        before = _applied(old.model, old.needs, old.variables, x)
    wanted = {item.old for item in found if item.kind != EXTRA}
    kept = trees.select(old.variables, lambda path: trees.spell(path) in wanted)
    renamed = trees.with_keys_of(arrays_renames.rename(kept, renames), new.needs.variables)
    differing = closeness.differences(before, _applied(new.model, new.needs, renamed, x))
    size = f"x {arrays_renames.kind(jnp.asarray(x))}"
    if differing:
        where = closeness.largest_differences(differing)
        return say(False, f"the new one does NOT give the old output: it differs in {where} ({size})")
    how = "on the old variables, renamed so," if renames else "on the old variables"
    return say(True, f"{how} the new one gives the old output bit for bit ({size})")


def _applied(model: Bridged, needs: Needs | None, variables: Any, x: Any) -> Mapping[str, np.ndarray]:
    streams, mutable = (needs.streams, needs.mutable) if needs else ((), ())

    def apply(variables: Any, x: Any) -> Any:
        return model.apply(variables, rngs.apply_keys(rngs.root_key(0), streams), mutable, x)[0]

    return trees.named_arrays(jax.jit(apply)(variables, x))


def _write_renamed(old: Side, renames: Mapping[str, str], found: Sequence[LeafDiff]) -> Path:
    """Writes the old variables at their new paths, next to the old checkpoint; unused ones are dropped."""
    if old.folder is None or old.variables is None:
        raise UserError(f"{old.label} has no checkpoint to rename", "diff CHECKPOINT pkg.mod:NewHost(…) --apply")
    run = RunFolder(old.folder.parent)
    place = old.folder.with_name(f"{old.folder.name}-renamed")
    if run.record.exists() and old.folder == run.checkpoint:
        place = output_path.default_target(run, "renamed")
    if place.exists():
        raise StorageError(f"{place} is there already", f"rm -r {place}")
    paths.require_plain(place, f"{old.label} in another folder")
    wanted = {item.old for item in found if item.new is not None}
    kept = trees.select(trees.to_host(old.variables), lambda path: trees.spell(path) in wanted)
    output_path.save(arrays_renames.rename(kept, renames), place)
    return place
