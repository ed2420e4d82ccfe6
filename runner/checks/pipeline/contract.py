"""pipeline: what one named pipeline does with a layer, besides how it calls: which state it keeps, what it can read."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

from flax import nnx

from runner.arrays import trees
from runner.bridge import boxes, lifts
from runner.bridge.calling.arguments import Arguments
from runner.bridge.needs import find_needs
from runner.checks.pipeline import axes, rules
from runner.checks.pipeline.findings import Findings
from runner.checks.probes import modes
from runner.checks.probes.subject import Subject
from runner.checks.programs import flow
from runner.config.settings.pipeline import PipelineSettings
from runner.errors import listed
from runner.records.record import Check, Verdict

NAME = "pipeline"

# Lines of a fix that would change how the pipeline calls.
ITS_CALLS = re.compile(r"layer\.(mutable|rngs|init_rngs)=|train\.collections=|# in a pipeline of your own:")

PARAMS_ALONE = """\
tx = optax.multi_transform(
    {True: tx, False: optax.set_to_zero()}, {name: name == 'params' for name in variables}
)  # in the pipeline"""

NO_MESH = "with flax.config.update('flax_always_shard_variable', False) in the pipeline, which has no mesh for them"

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
    if pipeline.same_call and lifts.is_wrapped(subject.model):
        _switch(subject, pipeline, found)
    found.said.append(f"{pipeline.name} keeps all variables of the layer, and can read them")
    return found.verdict(NAME)


def told(check: Check, pipeline: PipelineSettings | None) -> Check:
    """`check` in the words of the pipeline: what it does to cause a fail; no fix changes how it calls."""
    if pipeline is None or check.verdict is Verdict.passed:
        return check
    lines = [line for line in (check.fix or "").splitlines() if not ITS_CALLS.search(line)]
    if check.verdict is not Verdict.fail and check.name != NAME:
        return dataclasses.replace(check, fix="\n".join(lines) or None)
    detail = f"in {pipeline.name}: {check.detail}"
    if cause := pipeline.does.get(check.name):
        detail = f"{detail} – {cause}"
    if not lines and check.fix and "train.collections=" in check.fix:
        lines = [PARAMS_ALONE]
    return dataclasses.replace(check, detail=detail, fix="\n".join(lines) or None)


def _read(subject: Subject, pipeline: PipelineSettings, found: Findings) -> None:
    paths = [path for path, _ in trees.flatten(trees.unbox(subject.needs.variables))]
    numbered = [trees.spell(path) for path in paths if any(not isinstance(part, str) for part in path)]
    if pipeline.text_keys and numbered and not rules.is_asked(subject):  # which says the same
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
        found.wrong.append((text, f"layer.metadata_fn={'logical' if pipeline.boxes else 'none'}  # {NO_MESH}"))


def _keep(subject: Subject, keeps: list[str], pipeline: PipelineSettings, found: Findings) -> None:
    """Adds the variables that the pipeline does not carry from init to apply: each apply makes them again."""
    leaves = trees.flatten(trees.unbox(subject.needs.variables))
    lost = [path for path, _ in leaves if path[0] not in keeps and not _is_sown(subject, path)]
    changed = [path for path in lost if path[0] in subject.needs.mutable]
    drawn = [path for path in lost if path not in changed and _is_drawn(subject, path)]
    constant = [path for path in lost if path not in changed and path not in drawn]
    kept, cause = f"it keeps {', '.join(keeps)} alone, so", pipeline.does.get("keeps")
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


def _switch(subject: Subject, pipeline: PipelineSettings, found: Findings) -> None:
    """Adds that the call drops or counts as in training, where the pipeline evaluates by the same call."""
    effects = _effects(subject)
    if not effects:
        return
    same = f"in evaluation as in training the call {' and '.join(effects)}: {pipeline.does.get('same_call')}"
    for name, value in _truths(subject):
        if _effects(_called_with(subject, name, value)) == []:
            text = f"{same}; right where the model gives the layer {name}"
            given = "not self.is_training" if value else "self.is_training"
            found.limits.append(
                (text, f"self.layer()(x, {name}={given})  # in the model, is_training its train property")
            )
            return
    found.wrong.append((f"{same}, and no argument of the layer's call stops it", None))


def _effects(subject: Subject) -> list[str]:
    """What apply does besides its output, in words."""
    variables = subject.returned[1]
    counts = any(path[-1] == "use_running_average" for path in modes.switches(_module(subject)))
    updated = [name for name in subject.needs.mutable if counts and not trees.is_sown(variables.get(name, {}))]
    drawn = [f"draws from {', '.join(subject.wanted_streams)}"] if subject.wanted_streams else []
    return [*drawn, *([f"updates {', '.join(updated)}"] if updated else [])]


def _truths(subject: Subject) -> list[tuple[str, bool]]:
    """Both truth values for every argument of the native call that takes one."""
    known = inspect.signature(_module(subject).__call__).parameters.values()
    names = [item.name for item in known if item.default is None or isinstance(item.default, bool)]
    return [(name, value) for name in names for value in (True, False)]


def _module(subject: Subject) -> Any:
    construct = subject.model.construct
    assert construct is not None
    return nnx.eval_shape(lambda: construct(nnx.Rngs(0)))


def _called_with(subject: Subject, name: str, value: bool) -> Subject:
    """`subject` called with one more argument; itself where the layer refuses that."""
    model = dataclasses.replace(subject.model, call=Arguments({**subject.model.call, name: value}))
    try:
        needs = find_needs(model, subject.x, subject.label)
        other = subject.replaced(model=model, needs=needs, mutable=needs.mutable)
        other.wanted_streams  # noqa: B018 - traced here, where it may raise
    except Exception:  # noqa: BLE001 - whatever the layer's own code raises
        return subject
    return other


def _is_sown(subject: Subject, path: trees.Path) -> bool:
    return trees.is_sown(subject.needs.variables[path[0]])


def _is_drawn(subject: Subject, path: trees.Path) -> bool:
    paths = [other for other, _ in trees.flatten(subject.needs.variables)]
    return flow.read(subject.initialised, [other == path for other in paths])[0]


def _as_param(paths: list[trees.Path]) -> str:
    return "\n".join(f"self.{'.'.join(map(str, path[1:]))} = nnx.Param(…)  # in the constructor" for path in paths[:3])
