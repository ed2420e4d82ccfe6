"""pipeline: what one named pipeline does with a layer, beside how it calls: which state it keeps, what it can read."""

from __future__ import annotations

import dataclasses
import re

from runner.arrays import trees
from runner.bridge import boxes
from runner.checks.pipeline import axes
from runner.checks.pipeline.findings import Findings
from runner.checks.probes import flow
from runner.checks.probes.subject import Subject
from runner.config.pipeline_settings import PipelineSettings
from runner.errors import listed
from runner.records.record import Check, Verdict

NAME = "pipeline"

# Lines of a fix that would change how the pipeline calls.
ITS_CALLS = re.compile(r"layer\.(mutable|rngs|init_rngs)=|train\.collections=|# in a pipeline of your own:")

PARAMS_ALONE = """\
tx = optax.multi_transform(
    {True: tx, False: optax.set_to_zero()}, {name: name == 'params' for name in variables}
)  # in the pipeline"""

TEXT_KEYS = "nnx.Dict({f'layer_{num}': layer for num, layer in enumerate(layers)})  # in place of a list"


def is_asked(subject: Subject) -> bool:
    """Whether a pipeline is named."""
    return subject.pipeline is not None


def check(subject: Subject, *, full: bool) -> Check:
    """Whether the pipeline keeps all state of the layer, and can read its paths and boxes."""
    pipeline, found = subject.pipeline, Findings()
    assert pipeline is not None
    if not axes.is_asked(subject):  # which asks the same of them
        _read(subject, pipeline, found)
    if pipeline.keeps is not None:
        _keep(subject, pipeline.keeps, pipeline, found)
    found.said.append(f"{pipeline.name} keeps all variables of the layer, and can read them")
    return found.verdict(NAME)


def told(check: Check, pipeline: PipelineSettings | None) -> Check:
    """`check`, where it fails with what the pipeline does to cause that, and without what the pipeline does not let."""
    if pipeline is None or check.verdict is not Verdict.fail:
        return check
    detail = f"in {pipeline.name}: {check.detail}"
    if cause := pipeline.does.get(check.name):
        detail = f"{detail} – {cause}"
    lines = [line for line in (check.fix or "").splitlines() if not ITS_CALLS.search(line)]
    if not lines and check.fix and "train.collections=" in check.fix:
        lines = [PARAMS_ALONE]
    return dataclasses.replace(check, detail=detail, fix="\n".join(lines) or None)


def _read(subject: Subject, pipeline: PipelineSettings, found: Findings) -> None:
    paths = [path for path, _ in trees.flatten(trees.unbox(subject.needs.variables))]
    numbered = [trees.spell(path) for path in paths if any(not isinstance(part, str) for part in path)]
    if pipeline.text_keys and numbered:
        keys = "has a key that is no text" if len(numbered) == 1 else "have keys that are no text"
        found.wrong.append((f"{listed(numbered)} {keys}: {pipeline.does.get('text_keys')}", TEXT_KEYS))
    if pipeline.boxes is None:
        return
    boxed = {
        path: box
        for path, box in boxes.box_names(subject.needs.variables).items()
        if box not in (None, *pipeline.boxes)
    }
    if boxed:
        kind = next(iter(boxed.values()))
        is_in = "is" if len(boxed) == 1 else "are"
        text = f"{listed(list(boxed))} {is_in} in a box ({kind}): {pipeline.does.get('boxes')}"
        found.wrong.append((text, f"layer.metadata_fn={'logical' if pipeline.boxes else 'none'}"))


def _keep(subject: Subject, keeps: list[str], pipeline: PipelineSettings, found: Findings) -> None:
    """Adds the variables that the pipeline does not carry from init to apply: each apply makes them again."""
    leaves = trees.flatten(trees.unbox(subject.needs.variables))
    lost = [path for path, _ in leaves if path[0] not in keeps and not _is_sown(subject, path)]
    changed = [path for path in lost if path[0] in subject.needs.mutable]
    drawn = [path for path in lost if path not in changed and _is_drawn(subject, path)]
    constant = [path for path in lost if path not in changed and path not in drawn]
    kept, cause = f"keeps {', '.join(keeps)}", pipeline.does.get("keeps")
    for paths, what in ((changed, "what the layer changes there is lost"), (drawn, "weights of another key each time")):
        if paths:
            text = (
                f"{listed([trees.spell(path) for path in paths])} would be made again at every apply, {what}: {cause}"
            )
            found.wrong.append((f"{pipeline.name} {kept}; {text}", _as_param(paths) if paths is drawn else None))
    if constant:
        text = f"{listed([trees.spell(path) for path in constant])} would be made again at every apply"
        found.limits.append(
            (f"{pipeline.name} {kept}; {text}: right for a constant, not for one of a checkpoint", None)
        )


def _is_sown(subject: Subject, path: trees.Path) -> bool:
    return trees.is_sown(subject.needs.variables[path[0]])


def _is_drawn(subject: Subject, path: trees.Path) -> bool:
    paths = [other for other, _ in trees.flatten(subject.needs.variables)]
    return flow.read(subject.initialised, [other == path for other in paths])[0]


def _as_param(paths: list[trees.Path]) -> str:
    return "\n".join(f"self.{'.'.join(map(str, path[1:]))} = nnx.Param(…)  # in the constructor" for path in paths[:3])
