"""sharding: the variables' axis names fit their arrays, survive `nn.scan` and `nn.vmap`, and work on a mesh.

The bridge turns NNX variables with axis names into `NNXMeta`, which leaves the names unchanged when a lift adds an
axis; `nn.Partitioned` and `nn.LogicallyPartitioned` add the axis.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax.core import meta
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from runner.arrays import trees
from runner.arrays.mesh import SPELL_AXES, mesh_axes
from runner.bridge import lifts, rngs
from runner.bridge.tracing import tried_boxes
from runner.bridge.tracing.tried_boxes import KEEP_AXES
from runner.bridge.wrap import Bridged
from runner.checks.probes.subject import Subject
from runner.checks.results import rounding, verdicts
from runner.errors import UserError
from runner.records.record import Check

NUM_LAYERS = 2

# Part of flax's error message when a variable with axis names is created without a mesh.
NO_MESH = "An auto mesh context or metadata is required"

# A layer in no host was tried in two scans: that of a pipeline may be either.
KEEP_AXES_ALONE = f"""\
{KEEP_AXES}
# Tried in a scan with metadata_params={{nn.PARTITION_NAME: …}}; one without (T5X, EasyLM, big_vision) takes no box:
# layer.clone(metadata_fn=None), and the pipeline's own rules place the leaves"""

SET_MESH = """\
mesh = jax.make_mesh({shape}, {names}, axis_types=(jax.sharding.AxisType.Auto,) * {num})
with jax.set_mesh(mesh):  # `with mesh:` does not count
    variables = model.init(key, x)
# or, to keep the names and place nothing: flax.config.update("flax_always_shard_variable", False)"""


@dataclass
class _Findings:
    """The findings, each sentence with its fix."""

    wrong: list[tuple[str, str | None]] = field(default_factory=list)
    limits: list[tuple[str, str | None]] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)
    boxes: dict[str, str] = field(default_factory=dict)


def check(subject: Subject, *, full: bool) -> Check:
    """Whether the variables' axis names are usable and the layer runs on all available devices."""
    boxes = _boxes(subject.needs.variables)
    if not boxes:
        return _without_names(subject)
    findings = _Findings(evidence={"names": {path: _axis_texts(trees.axis_names(box)) for path, box in boxes.items()}})
    mesh = _mesh_of(boxes, _devices(subject))
    _check_ranks(subject, boxes, findings)
    if findings.wrong:  # such names can be neither lifted nor placed
        return _verdict(boxes, findings, "")
    with jax.set_mesh(mesh):
        _check_lifts(subject, boxes, findings)
        _check_specs(subject, findings)
    _check_context(subject, mesh, findings)
    found = _run(subject, mesh)
    sizes = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
    said = f"sharded on a mesh {sizes} it {rounding.as_words(found)}"
    findings.evidence |= {"mesh": dict(mesh.shape), "run": found or "the same bits"}
    if rounding.is_wrong(found):
        findings.wrong.append((said, None))
    return _verdict(boxes, findings, said)


def why_it_fails(error: Exception) -> Check | None:
    """The check of a layer that can't be traced because no mesh is set; None for any other error."""
    if tried_boxes.UNNAMED in str(error):
        return _refused_box(error)
    if NO_MESH not in str(error):
        return None
    match = re.search(r"out_sharding=(?:P|PartitionSpec)?\((.*?)\)(?:\.| |$)", str(error))
    names = tuple(re.findall(r"'(\w+)'", match[1])) if match else ("data",)
    detail = (
        f"init and apply raise ValueError ({NO_MESH}): a variable has the axis names {', '.join(names)} and no mesh is"
        " set; `with mesh:` does not count, jax.set_mesh does"
    )
    return verdicts.fail("sharding", detail, _set_mesh(dict.fromkeys(names, 1)), names=list(names))


def _refused_box(error: Exception) -> Check:
    fix = error.suggestion if isinstance(error, UserError) else None
    detail = "a lift of the host passes no metadata_params, and the box around a variable of the layer wants them"
    return verdicts.fail("sharding", f"{detail}: PartitioningUnspecifiedError", fix)


def _without_names(subject: Subject) -> Check:
    devices = _devices(subject)
    if len(devices) == 1:
        detail = "no leaf has axis names; there is 1 device, so nothing was run on several"
        return verdicts.passed("sharding", detail, num_devices=1)
    found = _run(subject, Mesh(np.array(devices), ("devices",), axis_types=(AxisType.Auto,)))
    detail = f"no leaf has axis names; replicated on {len(devices)} devices it {rounding.as_words(found)}"
    verdict = verdicts.fail if rounding.is_wrong(found) else verdicts.passed
    return verdict("sharding", detail, num_devices=len(devices), run=found or "the same bits")


def _verdict(boxes: Mapping[str, Any], findings: _Findings, ran: str) -> Check:
    problems = findings.wrong or findings.limits
    if not problems:
        named = ", ".join(f"{path} ({', '.join(_axis_texts(trees.axis_names(box)))})" for path, box in boxes.items())
        detail = (
            f"the axis names of {named} fit their arrays and outlive nn.scan and nn.vmap with metadata_params; {ran}"
        )
        return verdicts.passed("sharding", detail, **findings.evidence)
    if findings.boxes and all(findings.boxes.values()):
        tried = [f"{name}: {problem}" for name, problem in findings.boxes.items()]
        problems = [*problems, (f"no box works in this host ({'; '.join(tried)[:400]})", None)]
    evidence = {**findings.evidence, "limits": [text for text, _ in findings.limits]}
    verdict = verdicts.fail if findings.wrong else verdicts.warn
    return verdict("sharding", "; ".join(text for text, _ in problems), problems[0][1], **evidence)


def _check_ranks(subject: Subject, boxes: Mapping[str, Any], findings: _Findings) -> None:
    """Checks that each array has as many names as axes."""
    # A lift around the layer may have added the unnamed axis.
    fix = SPELL_AXES if lifts.is_wrapped(subject.model) else _box_for(subject, findings)
    for path, box in boxes.items():
        names, rank = _axis_texts(trees.axis_names(box)), len(jax.tree.leaves(box)[0].shape)
        if len(names) != rank:
            text = f"{path} has {rank} axes and the names ({', '.join(names)})"
            findings.wrong.append((text, fix if len(names) < rank else SPELL_AXES))


def _box_for(subject: Subject, findings: _Findings) -> str | None:
    """The box that keeps the names, tried in this very host; None if none works there."""
    if lifts.is_wrapped(subject.model):
        return KEEP_AXES_ALONE
    if not findings.boxes:
        findings.boxes = tried_boxes.tried(subject.model, subject.needs, subject.x)
        findings.evidence["boxes"] = {name: problem or "works" for name, problem in findings.boxes.items()}
    return tried_boxes.first_fix(findings.boxes)


def _check_lifts(subject: Subject, boxes: Mapping[str, Any], findings: _Findings) -> None:
    """Checks that the axis added by a lift comes first among the names."""
    needs, x = subject.needs, trees.shapes(subject.x)
    collections = tuple(sorted({*needs.variables, *needs.mutable}))
    many = jax.ShapeDtypeStruct((NUM_LAYERS, *x.shape), x.dtype)
    lifted = {
        "nn.vmap": (lifts.vmap(subject.model, NUM_LAYERS, shared=(), stacked=collections, streams=needs.streams), many)
    }
    if jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), needs.output) == (x.shape, x.dtype):
        lifted["nn.scan"] = lifts.scan(subject.model, NUM_LAYERS, collections, needs.streams), x
    lost: dict[str, list[str]] = {}
    for lift, (host, given) in sorted(lifted.items()):
        try:
            got = _boxes(_init_shapes(host, subject, given), inside=lifts.NAME)
        except Exception as error:  # noqa: BLE001 - whatever the layer's own code raises
            findings.limits.append((f"{lift} fails: {verdicts.words(error)}", None))
            continue
        findings.evidence[lift] = {path: _axis_texts(trees.axis_names(box)) for path, box in got.items()}
        for path, box in boxes.items():
            wanted = (lifts.LAYERS_AXIS, *(trees.axis_names(box) or ()))
            if path not in got or trees.axis_names(got[path]) != wanted:
                lost.setdefault(path, []).append(lift)
    for path, under in lost.items():
        box = boxes[path]
        rank = len(jax.tree.leaves(box)[0].shape) + 1
        names = ", ".join(_axis_texts(trees.axis_names(box)))
        lose = "lose" if len(under) > 1 else "loses"
        text = f"{' and '.join(under)} {lose} the added axis: {path} keeps the names ({names}) on {rank} axes"
        findings.wrong.append((text, _box_for(subject, findings)))


def _check_specs(subject: Subject, findings: _Findings) -> None:
    """Checks that partition specs can be derived from shapes, as pipelines do before computing anything."""
    try:
        meta.get_partition_spec(_init_shapes(subject.model, subject, trees.shapes(subject.x)))
    except Exception as error:  # noqa: BLE001 - whatever the box raises
        text = f"nn.get_partition_spec of jax.eval_shape(init) fails under jax.set_mesh: {verdicts.words(error)}"
        findings.limits.append((text, _box_for(subject, findings)))


def _check_context(subject: Subject, mesh: Mesh, findings: _Findings) -> None:
    """Checks that init can be traced without a mesh."""
    try:
        with jax.set_mesh(None):
            _init_shapes(subject.model, subject, trees.shapes(subject.x))
        findings.evidence["context"] = "none"
    except Exception as error:
        if NO_MESH not in str(error):
            raise
        findings.evidence["context"] = "jax.set_mesh"
        where = "where no mesh is set by jax.set_mesh (`with mesh:` does not count)"
        text = f"init and apply raise {type(error).__name__} {where}"
        findings.limits.append((text, _set_mesh(dict.fromkeys(mesh.axis_names, 1))))


def _run(subject: Subject, mesh: Mesh) -> str:
    """How init and apply on `mesh`, placed by axis names, differ from a single device; '' for equal bits."""
    needs, apply = subject.needs, _apply(subject)
    wanted = trees.to_host(subject.init_variables)
    # Host arrays are on no device: with a surrounding mesh, arrays on the first device would be rejected.
    key, x = np.asarray(subject.key), np.asarray(subject.x)
    expected = subject.jit(apply)(wanted, key, x)
    placed = jax.tree.map(lambda leaf: _sharding(leaf, mesh), needs.variables, is_leaf=meta.is_axis_metadata)
    try:
        with jax.set_mesh(mesh):
            init = subject.jit(lambda key, x: subject.model.init(key, needs.streams, x), out_shardings=placed)
            everywhere = NamedSharding(mesh, PartitionSpec())
            key, x = jax.device_put((key, x), everywhere)
            variables = init(key, x)
            output = subject.jit(apply)(variables, key, x)
            got = trees.to_host((variables, output))
    except Exception as error:  # noqa: BLE001 - whatever the layer's own code raises
        return f"fails: {verdicts.words(error)}"
    return rounding.difference(trees.named_arrays(got), trees.named_arrays(trees.to_host((wanted, expected))))


def _apply(subject: Subject) -> Any:
    needs = subject.needs
    return lambda variables, key, x: subject.model.apply(
        variables, rngs.apply_keys(key, needs.streams), needs.mutable, x
    )


def _init_shapes(model: Bridged, subject: Subject, x: Any) -> Any:
    key = jax.ShapeDtypeStruct(subject.key.shape, subject.key.dtype)
    return jax.eval_shape(lambda key, x: model.init(key, subject.needs.streams, x), key, x)


def _boxes(variables: Any, inside: str | None = None) -> dict[str, Any]:
    """The metadata boxes with axis names by path; the name `inside` is stripped from the paths under it."""
    found = {}
    for path, leaf in trees.flatten(variables):
        if trees.axis_names(leaf):
            found["/".join(str(part) for num, part in enumerate(path) if num != 1 or part != inside)] = leaf
    return found


def _sharding(leaf: Any, mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*mesh_axes(leaf)))


def _mesh_of(boxes: Mapping[str, Any], devices: Sequence[Any]) -> Mesh:
    """A mesh with the axes that the boxes name, over as many of `devices` as their arrays can be split across."""
    for box in boxes.values():
        own = getattr(box, "mesh", None) or getattr(box, "metadata", {}).get("mesh")
        if own is not None:
            return own
    cuts: dict[tuple[str, ...], int] = {}
    for box in boxes.values():
        for size, names in zip(jax.tree.leaves(box)[0].shape, mesh_axes(box), strict=False):
            axes = names if isinstance(names, tuple) else (names,) if names else ()
            cuts[axes] = math.gcd(cuts.get(axes, 0), size)
    sizes = _cut(dict.fromkeys(itertools.chain(*cuts), 1), cuts, len(devices))
    used = np.array(devices[: math.prod(sizes.values())])
    return Mesh(used.reshape(*sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def _cut(sizes: dict[str, int], cuts: Mapping[tuple[str, ...], int], num: int) -> dict[str, int]:
    """`sizes` of mesh axes scaled up to `num` devices in total, with every size in `cuts` divisible by its axes."""
    if num < 2:
        return sizes
    factor = next(number for number in range(2, num + 1) if num % number == 0)
    for name in sorted(sizes, key=lambda name: sizes[name]):
        larger = sizes | {name: sizes[name] * factor}
        if all(size % math.prod(larger[axis] for axis in axes) == 0 for axes, size in cuts.items()):
            return _cut(larger, cuts, num // factor)
    return _cut(sizes, cuts, num // factor)


def _devices(subject: Subject) -> list[Any]:
    """All devices of the same kind as the input's."""
    platform = next(iter(subject.x.devices())).platform
    return list(jax.local_devices(backend=platform))


def _set_mesh(shape: Mapping[str, int]) -> str:
    return SET_MESH.format(shape=tuple(shape.values()), names=tuple(shape), num=len(shape))


def _axis_texts(names: Any) -> list[str]:
    return [str(name) for name in names or ()]
