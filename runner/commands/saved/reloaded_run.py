"""`bridge-runner reload`: a saved run loaded, applied to its recorded input, and the Python that does so.

It prints how closely the output agrees with the recorded one; `verify` checks whether it does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from runner.arrays import closeness, trees
from runner.arrays.tree_moves import kind
from runner.bridge.calling.calls import METHOD
from runner.commands.derived import output_path
from runner.config.composing.composed import Config
from runner.config.settings.run import Run
from runner.experiment import saved_run
from runner.experiment.saved_run import Reloaded
from runner.launch import process
from runner.records import find, seeds, store
from runner.records.paths import RunFolder
from runner.report import table
from runner.report.terminal import Terminal


def reload(
    path: Path,
    *,
    out: Path | None = None,
    as_: str = "linen",
    device: str | None = None,
    dtype: str | None = None,
    only: Sequence[str] | None = None,
    trust: bool = False,
) -> int:
    """Prints a saved run's tree, how closely its output agrees with the recorded one, and Python that does the same.

    Args:
      path: The run's folder.
      out: A new folder, to which the loaded variables are written as a plain Orbax checkpoint.
      as_: See `reloading.reload`, also for the others.
      device: Where to put the variables.
      dtype: What to cast floating-point leaves to.
      only: Collections or paths to load.
      trust: Whether modules other than ours and Flax's may be imported.

    Returns:
      0.

    Raises:
      UserError: The run does not exist, is damaged, imports untrusted modules, or can't be loaded this way.
    """
    folder = find.find_run(path)
    target = None if out is None else Path(os.path.expanduser(out))
    if target is not None:
        output_path.require_target(target, folder)
    process.prepare_process([Config(run=Run())])
    how = {"as_": as_, "device": device, "dtype": dtype, "only": only, "trust": trust}
    found = saved_run.reload(folder.path, **how)  # type: ignore[arg-type]
    terminal = Terminal()
    for line in describe(folder, found, how):
        terminal.line(line)
    if target is not None:
        output_path.save(trees.to_host(found.variables), target)
        terminal.line(f"written: {target}; start from it with variables={target}")
    return 0


def describe(folder: RunFolder, found: Reloaded, how: Mapping[str, Any]) -> list[str]:
    """What was loaded, as text.

    Args:
      folder: The run's.
      found: What was loaded.
      how: The arguments of `reloading.reload`.
    """
    record = found.record
    lines = [f"{folder.path.name}: {record.layer} as {type(found.module).__name__} ({how['as_']})"]
    lines += _tree(found)
    num, total = len(jax.tree.leaves(found.variables)), len(record.variables)
    parts = [f"{total} leaves have the digests of the record"]
    parts += [f"{num} of them loaded"] if num < total else []
    parts += [f"cast to {how['dtype']}"] if how["dtype"] else []
    whole = num == total
    lines += ["", "; ".join(parts), _output(folder, found, whole=whole)]
    return [
        *lines,
        "",
        "the same in Python:",
        *(f"  {line}" for line in _python(folder, found, how)[: 3 if whole else 2]),
    ]


def _tree(found: Reloaded) -> list[str]:
    record = {"settings": found.record.settings, "variables": [{"path": leaf.path} for leaf in found.record.variables]}
    layer = seeds.layer_path(record)
    paths = {leaf.name: leaf.path for leaf in found.record.variables}
    rows = []
    for path, leaf in trees.flatten(found.variables):
        name = trees.spell(path)
        where = ", ".join(sorted(map(str, leaf.devices()))) if isinstance(leaf, jax.Array) else "host"
        rows.append((name, seeds.nnx_path(paths[name], layer), kind(leaf), table.size(leaf.nbytes), where))
    return table.columns(rows)


def _output(folder: RunFolder, found: Reloaded, *, whole: bool) -> str:
    if not whole:
        return "output: not computed, since leaves are left out"
    if not found.record.output:
        return "output: the run failed, and has none to compare with"
    made = trees.named_arrays(found.apply())
    kept = store.read_output(folder, found.record)
    if not closeness.differences(kept, made):
        return "output: the recorded one bit for bit"
    return "output: " + ", ".join(_distance(name, kept.get(name), made.get(name)) for name in {**kept, **made})


def _distance(name: str, kept: np.ndarray | None, made: np.ndarray | None) -> str:
    """How far an array is off the recorded one."""
    label = f"{name} " if name else ""
    if kept is None or made is None or kept.shape != made.shape:
        kinds = ["nothing" if one is None else kind(one) for one in (made, kept)]
        return f"{label}is {kinds[0]}, recorded is {kinds[1]}"
    first, second = trees.as_float64(kept), trees.as_float64(made)
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(np.abs(first - second), nan=0.0)
    largest = np.max(np.abs(first[np.isfinite(first)]), initial=0.0)
    ulps = f", {trees.ulp_distance(kept, made)} ulp" if kept.dtype == made.dtype else f", {made.dtype.name} now"
    return f"{label}at most {apart.max(initial=0.0):.3g} from the recorded one (largest value {largest:.3g}{ulps})"


def _python(folder: RunFolder, found: Reloaded, how: Mapping[str, Any]) -> list[str]:
    defaults = {"as_": "linen", "device": None, "dtype": None, "only": None, "trust": False}
    words = [repr(str(folder.path)), *(f"{key}={how[key]!r}" for key in defaults if how[key] != defaults[key])]
    plain = all(isinstance(value, (bool, int, float, str, type(None))) for value in found.call.values())
    given = {key: value for key, value in found.call.items() if how["as_"] != "nnx" or key != METHOD}
    call = "".join(f", {key}={value!r}" for key, value in given.items()) if plain else ", **saved.call"
    lines = ["import runner", f"saved = runner.reload({', '.join(words)})"]
    if how["as_"] == "nnx":
        method = found.call.get(METHOD)
        if method is not None and not isinstance(method, str):
            return [*lines, "y = saved.apply()"]
        called = "saved.module" + (f".{method}" if method else "")
        return [*lines, f"y = saved.apply()  # {called}(saved.x{call}), compiled"]
    rngs = ", rngs=saved.rngs" if found.rngs else ""
    mutable = ", mutable=saved.mutable" if found.mutable else ""
    return [*lines, f"y = saved.apply()  # saved.module.apply(saved.variables, saved.x{rngs}{mutable}{call}), compiled"]
