"""axes: in a host that makes `params_axes`, every param has its entry, with a name for each axis.

T5X's train state refuses params without one; Flaxformer compares both trees.
"""

from __future__ import annotations

from typing import Any

from flax.core import meta

from runner.arrays import trees
from runner.bridge import lifts
from runner.bridge.layers import axes
from runner.bridge.tracing import tried_boxes
from runner.checks.pipeline.findings import Findings
from runner.checks.pipeline.rules import WITH_NAMES
from runner.checks.probes.subject import Subject
from runner.checks.results import verdicts
from runner.errors import listed
from runner.records.record import Check

NAME = "axes"


def is_asked(subject: Subject) -> bool:
    """Whether the host makes `params_axes`, or the pipeline wants them."""
    wanted = subject.pipeline is not None and subject.pipeline.axes == axes.COLLECTION
    return wanted or axes.COLLECTION in subject.needs.variables


def check(subject: Subject, *, full: bool) -> Check:
    """Whether every param has its axes, as many as its array has."""
    entries = tried_boxes.axes_entries(subject.needs.variables)
    if entries is None and is_asked(subject):
        entries = {}
    if entries is None:
        return verdicts.skipped(NAME, "init makes no params_axes")
    params = {path[1:]: leaf for path, leaf in trees.flatten(subject.needs.variables) if path[0] == "params"}
    found = Findings(evidence={"params_axes": {trees.spell(path): list(names) for path, names in entries.items()}})
    _require_strings(params, found)
    _require_entries(subject, found)
    _require_bare(subject, params, found)
    for path, leaf in params.items():
        names, rank = entries.get((*path[:-1], f"{path[-1]}{axes.SUFFIX}")), len(trees.unbox(leaf).shape)
        if names is not None and len(names) != rank:
            said = ", ".join(map(str, names))
            text = f"params/{trees.spell(path)} has {rank} axes and the names ({said}) in params_axes"
            found.wrong.append(
                (text, "one name, or None, for every axis; nn.partitioning.scan_with_axes names its own")
            )
    found.said.append(f"each of {len(params)} params has its axes in params_axes")
    return found.verdict(NAME)


def _require_strings(params: dict[trees.Path, Any], found: Findings) -> None:
    odd = [f"params/{trees.spell(path)}" for path in params if any(not isinstance(part, str) for part in path)]
    if odd:
        keys = "has a key that is no string" if len(odd) == 1 else "have keys that are no strings"
        found.wrong.append((f"{listed(odd)} {keys}: T5X's flatten_dict(params, sep='/') raises TypeError", WITH_NAMES))


def _require_entries(subject: Subject, found: Findings) -> None:
    missing = tried_boxes.missing_axes({axes.COLLECTION: {}, **subject.needs.variables})
    if missing:
        text = f"params_axes has nothing for {listed([f'params/{name}' for name in missing])}"
        found.wrong.append((f"{text}: T5X raises ValueError: Missing axis names for parameters", _writer(subject)))


def _require_bare(subject: Subject, params: dict[trees.Path, Any], found: Findings) -> None:
    boxed = [path for path, leaf in params.items() if isinstance(leaf, meta.AxisMetadata)]
    if boxed:
        box = type(params[boxed[0]]).__name__
        text = (
            f"{listed([f'params/{trees.spell(path)}' for path in boxed])}: in a box ({box}), which params_axes has not"
        )
        found.wrong.append((text, _writer(subject)))


def _writer(subject: Subject) -> str | None:
    """The wrapper that writes the axes, if it was tried in this host and works."""
    if lifts.is_wrapped(subject.model):
        return tried_boxes.WRITER
    problem = tried_boxes.problem(subject.model, subject.needs, subject.x, tried_boxes.AXES)
    return None if problem else tried_boxes.WRITER
