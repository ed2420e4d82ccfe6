"""The sides of `diff`: a run, a checkpoint as people save them, a host in Python with or without one, or a config."""

from __future__ import annotations

import ast
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.arrays import saved_trees, trees
from runner.arrays.formats import places
from runner.arrays.saved_trees import SavedTree
from runner.bridge import targets, wrap
from runner.bridge.migration import module_names, unsaved
from runner.bridge.migration.modes import Mode, in_mode, modes_of
from runner.bridge.migration.module_names import ModuleNames
from runner.bridge.needs import Needs, find_needs
from runner.bridge.rules.sources import PathRules
from runner.bridge.trust import foreign_code
from runner.bridge.wrap import Bridged
from runner.config.composing import compose
from runner.errors import ConfigError, LayerError, StorageError, UserError, no_exit
from runner.experiment import identity, inputs
from runner.experiment.draft import make_draft
from runner.experiment.saved_run import SavedRun
from runner.records import find, store

SUGGESTED = "a run, a checkpoint, pkg.mod:Host(width=8), pkg.mod:Host(width=8)@CHECKPOINT, or layer=mlp"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a diff.

    Attributes:
      input_shape: Shape of x for hosts, if no run or config gives it.
      input_dtype: Its dtype.
      call: Keyword arguments for every call of a host.
      apply: Whether to write the renamed checkpoint.
      as_json: Whether to print JSON.
      rules: What the pipeline does by path, if it was given.
      trust: Whether a run may import modules other than ours and Flax's.
    """

    input_shape: tuple[int, ...] | None = None
    input_dtype: str = "float32"
    call: Mapping[str, Any]
    apply: bool = False
    as_json: bool = False
    rules: PathRules | None = None
    trust: bool = False


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two sides of a comparison.

    Attributes:
      label: As it was typed.
      place: Where its checkpoint is, if any.
      saved: What a checkpoint that is no run's holds.
      variables: Arrays, without boxes; None if only shapes are known.
      model: The model to apply, or None for a bare checkpoint.
      needs: What the model needs.
      names: The names of its modules, in the order of their creation.
      x: The input that it is applied to.
      output: The recorded output of a run.
      is_run: Whether it is a run: those are saved without boxes, and loaded without.
      unsaved: Collections that its init gives, its apply can do without, and the old checkpoint does not hold.
      foreign: Untrusted modules that a run imports: its model is then not built.
    """

    label: str
    place: Path | None = None
    saved: SavedTree | None = None
    variables: Any = None
    model: Bridged | None = None
    needs: Needs | None = None
    names: ModuleNames = field(default_factory=ModuleNames)
    x: Any = None
    output: Mapping[str, np.ndarray] | None = None
    is_run: bool = False
    unsaved: Collection[str] = ()
    foreign: Sequence[str] = ()

    @property
    def full_label(self) -> str:
        """As it was typed, with what was taken of it: the newest step, a part of a tree."""
        is_whole = self.saved is None or self.saved.where == str(self.place)
        return self.label if is_whole else f"{self.label} ({self.saved.where})"  # type: ignore[union-attr]

    @property
    def shapes(self) -> Any:
        """Shapes and dtypes of the side's variables, without boxes."""
        if self.variables is not None:
            return self.variables
        return trees.unbox(self.needs.variables) if self.needs else {}


def read_sides(old: str, new: str, options: Options) -> tuple[Side, Side]:
    """The two sides, traced, with the variables of their checkpoints.

    Raises:
      UserError: One is nothing that can be compared.
    """
    first, second = _side(old, options), _side(new, options)
    x = first.x if first.x is not None else second.x
    one, two = first.model or second.model, second.model or first.model
    modes = modes_of(one, two) if one and two else []
    first = _traced(replace(first, x=x), [(mode, mode.calls[0]) for mode in modes])
    second = _traced(replace(second, x=x), [(mode, mode.calls[1]) for mode in modes])
    collections = [str(key) for side in (first, second) if side.needs for key in side.needs.variables]
    before, after = _with_variables(first, second, collections), _with_variables(second, first, collections)
    lacking = _lacking(before)
    return (
        _without_unsaved(before, [{}, *(mode.calls[0] for mode in modes)], lacking),
        _without_unsaved(after, [{}, *(mode.calls[1] for mode in modes)], lacking),
    )


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


def _side(text: str, options: Options) -> Side:
    """The side that `text` names, neither traced nor read."""
    path = Path(os.path.expanduser(text))
    if places.is_place(text):
        return Side(label=text, place=path)
    if not os.path.exists(path) and os.path.exists(path.parent / "sweep.json"):  # a run given by a prefix of its name
        path = find.find_run(path).path
    if os.path.exists(path):  # a config may exceed the file name limit, at which pathlib raises
        if os.path.exists(path if path.name == "record.json" else path / "record.json"):
            return _run_side(text, path, trust=options.trust)
        return Side(label=text, place=path)
    host, _, folder = text.partition("@")
    if ":" in host and "=" not in host.partition("(")[0]:
        place = Path(os.path.expanduser(folder)) if folder else None
        return Side(label=text, place=place, model=Bridged(model=host_of(host), call=options.call), x=_input(options))
    if "=" in text:
        run = compose.compose(text.split())
        draft = make_draft(run, identity.identity_of(run))
        return Side(label=text, model=draft.model, x=inputs.make_input(run.input, run.input_shape))
    if any(one not in (Path("."), Path("/")) and os.path.exists(one) for one in path.parents):
        places.split(text)  # raises, and names the nearest
    raise UserError(f"{text} is neither a checkpoint nor a host nor a config", SUGGESTED)


def _run_side(text: str, path: Path, *, trust: bool) -> Side:
    saved = SavedRun(find.find_run(path))
    folder, record = saved.folder, saved.record
    foreign = [] if trust else foreign_code(saved.run)
    side = Side(label=text, place=folder.checkpoint, is_run=True, foreign=foreign)
    if foreign:
        return replace(side, variables=saved.variables())
    draft = saved.draft()
    return replace(
        side,
        variables=trees.with_keys_of(saved.variables(), draft.needs.variables),
        model=draft.model,
        x=saved.x,
        # A mesh may round differently from a single device.
        output=store.read_output(folder, record) if record.output and record.mesh is None else None,
    )


def _input(options: Options) -> Any:
    if options.input_shape is None:
        return None
    shape, values = options.input_shape, np.random.default_rng(0)
    try:
        dtype = jax.dtypes.canonicalize_dtype(options.input_dtype)
    except TypeError:
        dtype = np.dtype(object)
    is_integer = any(jnp.issubdtype(dtype, kind) for kind in (jnp.bool_, jnp.integer))
    if not is_integer and not jnp.issubdtype(dtype, jnp.inexact):
        raise ConfigError("--input-dtype", options.input_dtype, "no such dtype", "--input-dtype float32")
    try:
        if is_integer:
            return jnp.asarray(values.integers(0, 2, shape), dtype)
        drawn = values.standard_normal(shape)
        is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
        return jnp.asarray(drawn + 1j * values.standard_normal(shape) if is_complex else drawn, dtype)
    except (ValueError, OverflowError):
        raise ConfigError("--input", list(shape), "no such shape", "--input '[2,8]'") from None
    except MemoryError:
        raise ConfigError("--input", list(shape), "it does not fit in memory", "--input '[2,8]'") from None


def _traced(side: Side, calls: Sequence[tuple[Mode, Mapping[str, Any]]]) -> Side:
    """`side` with what its model needs, in the first mode that it takes."""
    if side.model is None:
        return side
    if side.x is None:
        raise UserError(f"{side.label}: the shape of its input is not known", "--input '[2,8]'")
    refusals = []
    for call in [{}, *(call for _, call in calls)]:
        model = in_mode(side.model, call)
        try:
            needs = find_needs(model, side.x, side.label)
        except LayerError as error:
            refusals.append(error)
            continue
        return replace(side, needs=needs, names=module_names.trace_modules(model, needs.streams, side.x))
    raise LayerError(refusals[0].what, "another --input, or --call NAME=VALUE") from refusals[0]


def _lacking(old: Side) -> set[str]:
    """Collections that the init of the old model gives and its checkpoint has not."""
    if old.needs is None or old.saved is None:
        return set()
    return {str(key) for key in old.needs.variables} - {str(path[0]) for path, _ in trees.flatten(old.variables)}


def _without_unsaved(side: Side, calls: Sequence[Mapping[str, Any]], lacking: Collection[str]) -> Side:
    """`side` without what the old checkpoint lacks and its model does not need."""
    if side.model is None or side.needs is None or (side.variables is not None and side.saved is None):
        return side
    wanted = [one for one in lacking if one in side.needs.variables and one not in (side.variables or {})]
    found = unsaved.unneeded(side.model, calls, side.x, side.names, wanted)
    return replace(side, needs=unsaved.without(side.needs, found), unsaved=found) if found else side


def _with_variables(side: Side, other: Side, collections: Iterable[str]) -> Side:
    """`side` with the variables of its checkpoint, boxes taken off."""
    if side.place is None or side.is_run:
        return side
    try:
        saved = saved_trees.read(side.place, collections)
    except StorageError as error:
        host = side.label.partition("@")[0] if side.model else None
        raise StorageError(
            error.what, f"{host}@{error.suggestion}" if host and error.suggestion else error.suggestion
        ) from error
    models = [one.needs.variables for one in (side, other) if one.needs is not None]
    variables = saved_trees.without_boxes(saved.variables, models)
    if side.needs is not None:
        variables = trees.with_keys_of(variables, side.needs.variables)
    return replace(side, saved=saved, variables=variables)
