"""Check: a wrapped layer computes the same as the native NNX layer and its Linen twin, at the same cost.

The native module is built with `bridge.native_streams`. Everything compared is compiled and runs on init's variables
with slightly perturbed params, so that a bias of zero or a scale of one hides nothing.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.arrays import closeness, trees
from runner.bridge import native, needs, rngs, twins, wrap
from runner.bridge.twins import Twin
from runner.checks.probes.subject import Subject
from runner.checks.programs import hlo
from runner.checks.results import verdicts
from runner.errors import LayerError, listed
from runner.records.record import Check, Verdict
from runner.records.timing import Ratio
from runner.timing import clock, stats

NAME = "parity"
BRIDGED, NATIVE, LINEN = "bridged", "native", "linen"

# XLA may fuse two equivalent programs differently, which changes only the last bits.
FUSION_ULP = 4

COMPILE_ROUNDS = 1
ROUNDS = 10  # a 99 % interval of the median needs at least 8
WARMUP = 5
MIN_SAMPLE_S = 0.005

PURE = """\
# A layer is a function of rngs, variables and x: draw every number from rngs, keep what changes in a Variable.
class Mine(nnx.Module):
    def __init__(self, *, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (4, 8)))
    def __call__(self, x):
        return x @ self.kernel[...]"""


WORDS = {
    "variables": "variables differ",
    "output": "output differs",
    "updates": "updates differ",
    "gradient": "gradient differs",
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One of the compared programs.

    Attributes:
      apply: `(variables, streams, x) -> (output, updated collections)`.
      streams: Keys of apply, or the native module's streams made from them.
    """

    apply: Callable[[Any, Any, jax.Array], Any]
    streams: Any


def check(subject: Subject, *, full: bool) -> Check:
    """Compares variables, output, updates, gradient and cost with those of the native module and the twin."""
    del full
    layer = subject.model
    if layer.construct is None:
        return verdicts.passed(NAME, "nothing to compare: only a wrapped layer by itself has a native module")
    differing = _differing_variables(subject)
    evidence: dict[str, Any] = {"compared": ["variables"], "variables": differing}
    if _worst(differing) is None:
        return verdicts.fail(NAME, _natively(evidence), PURE, **evidence)
    found = _compare(subject, dict(evidence))
    if found.verdict is Verdict.fail and (held := _held_twice(subject)):
        return _compare(subject, {**evidence, "held_twice": held})
    return found


def _differing_variables(subject: Subject) -> dict[str, Any]:
    """How init's variables differ from the native module's; compiles nothing if both trace to the same program."""
    layer = subject.model
    keys = rngs.init_keys(subject.key, subject.needs.streams)
    inits = (
        lambda keys, x: layer.model.init(keys, x, **layer.call),
        lambda keys, x: native.variables(layer, keys),
    )
    bridged, alone = (hlo.before_xla(jax.jit(init).trace(keys, subject.x)) for init in inits)
    if bridged == alone:
        return {}
    return _differences(
        trees.unboxed_arrays(subject.init_variables),
        trees.unboxed_arrays(subject.jit(inits[1])(keys, subject.x)),
        NATIVE,
    )


def _compare(subject: Subject, evidence: dict[str, Any]) -> Check:
    variables = _moved(subject.init_variables)
    twin, tree = _twin(subject)
    variants = _variants(subject, twin, in_place="held_twice" in evidence)
    if tree:
        variants.pop(LINEN)
    arguments = {name: (variables, variant.streams, subject.x) for name, variant in variants.items()}
    functions = {name: variant.apply for name, variant in variants.items()}
    compiled, phases = clock.compile_interleaved(functions, arguments, rounds=COMPILE_ROUNDS)
    outputs = {name: compiled[name](*arguments[name]) for name in variants}
    results = {name: _results(*outputs[name]) for name in variants}
    evidence["compared"] = [*evidence["compared"], *(part for part, found in results[BRIDGED].items() if found)]
    if _has_gradient(variables):
        evidence["compared"].append("gradient")
        for name, gradient in _gradients(variants, arguments, outputs).items():
            results[name]["gradient"] = gradient
    evidence |= _against(results, NATIVE)
    evidence["linen"] = {"layer": twin.name, "why": twin.why, "tree": tree}
    if LINEN in variants:
        evidence["linen"] |= _against(results, LINEN)
    for name in variants.keys() - {BRIDGED}:
        evidence.setdefault("hlo_equal", {})[name] = hlo.equal(compiled[BRIDGED], compiled[name])
    evidence |= _costs(compiled, arguments, phases)
    return _verdict(evidence)


def _verdict(evidence: dict[str, Any]) -> Check:
    said = _natively(evidence), _linen(evidence), _steady(evidence), _merged(evidence)
    detail = "; ".join(part for part in said if part)
    native_worst = [_worst(evidence[part]) for part in ("variables", "output", "updates", "gradient")]
    if any(worst is None for worst in native_worst):
        return verdicts.fail(NAME, detail, PURE, **evidence)
    linen = evidence["linen"]
    differs = (
        any(native_worst)
        or "held_twice" in evidence
        or any(linen.get(part) for part in ("tree", "output", "updates", "gradient"))
    )
    return (verdicts.warn if differs else verdicts.passed)(NAME, detail, **evidence)


def _merged(evidence: dict[str, Any]) -> str:
    """What is said of functions that hold Params of their module: the bridge never merges one, NNX does."""
    held = evidence.get("held_twice", [])
    if not held:
        return ""
    has = "holds" if len(held) == 1 else "hold"
    return f"{listed(held)} {has} Params of the module: right in Linen, and the old ones after nnx.merge, as in nnx.jit"


def _variants(subject: Subject, twin: Twin, *, in_place: bool) -> dict[str, Variant]:
    layer, mutable = subject.model, subject.mutable
    keys = rngs.apply_keys(subject.key, subject.rngs)
    alone = native.in_place(layer, keys, mutable) if in_place else _split(subject, keys)
    variants = {
        BRIDGED: Variant(apply=lambda v, k, x: layer.apply(v, k, mutable, x), streams=keys),
        NATIVE: Variant(apply=alone.apply, streams=alone.rng_state),
    }
    if twin.layer is not None:
        linen = twin.layer
        variants[LINEN] = Variant(apply=lambda v, k, x: linen.apply(v, k, mutable, x), streams=keys)
    return variants


def _split(subject: Subject, keys: Mapping[str, jax.Array]) -> native.Native:
    alone = native.split(subject.model, keys, subject.mutable)
    traced = jax.make_jaxpr(alone.apply)(subject.shapes, alone.rng_state, subject.x)
    if any(isinstance(constant, jax.core.Tracer) for constant in traced.consts):
        # A table in a tuple or a function, made by the constructor under jit: no program can hold it.
        made_with = rngs.init_keys(subject.key, subject.needs.streams)
        alone = native.split(subject.model, keys, subject.mutable, made_with=made_with)
    return alone


def _held_twice(subject: Subject) -> list[str]:
    """Attributes of the native module that are functions, or other objects, and hold Params of the module itself."""
    return [name for one in subject.natives.values() for name in one.held_twice]


def _twin(subject: Subject) -> tuple[Twin, dict[str, Any]]:
    """The Linen twin, and the leaves of its variables that the wrapped layer lacks, by path."""
    model: Any = subject.model.model
    twin = twins.twin_of(model.nnx_class, wrap.arguments_of(model), subject.model.call)
    if twin.layer is None:
        return twin, {}
    try:
        wanted = needs.find_needs(twin.layer, subject.x, twin.name).variables
    except LayerError as error:
        return Twin(name=twin.name, why=error.what), {}
    ours, theirs = _kinds(subject.needs.variables), _kinds(wanted)
    return twin, {
        path: f"{ours.get(path, 'no leaf')} against {theirs.get(path, 'no leaf')}"
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path)
    }


def _kinds(variables: Any) -> dict[str, str]:
    pairs = trees.flatten(trees.unbox(variables))
    return {"/".join(map(str, path)): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in pairs}


def _moved(variables: Any) -> Any:
    """`variables` with every floating-point leaf of params slightly perturbed, by fixed numbers."""
    generator = np.random.default_rng(0)

    def move(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return (leaf + 0.1 * generator.standard_normal(leaf.shape)).astype(leaf.dtype)

    params = {rngs.PARAMS: jax.tree.map(move, variables[rngs.PARAMS])} if rngs.PARAMS in variables else {}
    return {**variables, **params}


def _results(output: Any, updated: Any) -> dict[str, Any]:
    return {"output": trees.unboxed_arrays(output), "updates": trees.unboxed_arrays(updated), "gradient": {}}


def _has_gradient(variables: Mapping[str, Any]) -> bool:
    leaves = jax.tree.leaves(variables.get(rngs.PARAMS, {}))
    return any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves)


def _gradients(
    variants: Mapping[str, Variant], arguments: Mapping[str, Any], outputs: Mapping[str, Any]
) -> dict[str, dict[str, np.ndarray]]:
    """The gradient of each variant with respect to its params; none if all trace to the same program."""
    functions = {name: jax.jit(_gradient_of(variants[name], outputs[name][0])) for name in variants}
    programs = {name: hlo.before_xla(function.trace(*arguments[name])) for name, function in functions.items()}
    others = [name for name, program in programs.items() if program != programs[BRIDGED]]
    asked = [BRIDGED, *others] if others else []
    gradients = {name: trees.unboxed_arrays(functions[name](*arguments[name])) for name in asked}
    return {name: gradients.get(name, gradients.get(BRIDGED, {})) for name in variants}


def _gradient_of(variant: Variant, output: Any) -> Callable[[Any, Any, jax.Array], Any]:
    cotangents = _cotangents(output)

    def gradient(variables: Any, streams: Any, x: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            output, _ = variant.apply({**variables, rngs.PARAMS: params}, streams, x)
            pairs = zip(_inexact(output), cotangents, strict=True)
            return sum((jnp.sum(jnp.real(one * two)) for one, two in pairs), start=jnp.zeros(()))

        by_param = trees.flatten(jax.grad(loss, allow_int=True)(variables[rngs.PARAMS]))
        leaves = {trees.spell(path): jax.tree.leaves(leaf)[0] for path, leaf in by_param}
        return {path: leaf for path, leaf in leaves.items() if leaf.dtype != jax.dtypes.float0}

    return gradient


def _cotangents(output: Any) -> list[jax.Array]:
    generator = np.random.default_rng(1)
    return [jnp.asarray(generator.standard_normal(leaf.shape), leaf.dtype) for leaf in _inexact(output)]


def _inexact(output: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(output) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]


def _against(results: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    return {part: _differences(found, results[name][part], name) for part, found in results[BRIDGED].items()}


def _differences(bridged: Mapping[str, Any], other: Mapping[str, Any], name: str) -> dict[str, Any]:
    only = {"only in the first": f"only {BRIDGED}", "only in the second": f"only {name}"}
    found = closeness.differences(bridged, other)
    return {path: only.get(item, item) if isinstance(item, str) else item for path, item in found.items()}


def _costs(compiled: Mapping[str, Any], arguments: Mapping[str, Any], phases: Mapping[str, Any]) -> dict[str, Any]:
    calls = {name: (lambda name=name: compiled[name](*arguments[name])) for name in compiled}
    samples = clock.measure_interleaved(calls, warmup=WARMUP, rounds=ROUNDS, min_sample_s=MIN_SAMPLE_S)
    costs: dict[str, dict[str, Any]] = {}
    for name, taken in samples.items():
        summary = stats.summarize(taken)
        costs[name] = {
            phase: statistics.median(getattr(one, phase) for one in phases[name])
            for phase in ("trace_s", "lower_s", "compile_s")
        }
        costs[name] |= {"cache": phases[name][0].cache, "steady_s": summary.median_s, "flags": summary.flags}
        costs[name] |= {"samples_s": taken.durations_s, "num_calls": taken.num_calls}
    others = [name for name in samples if name != BRIDGED]
    ratios = {name: stats.pairwise_ratio(samples[BRIDGED], samples[name]) for name in others}
    return {"costs": costs, "steady_ratio": {name: dataclasses.asdict(ratio) for name, ratio in ratios.items()}}


def _worst(differences: Mapping[str, Any]) -> int | None:
    """The largest difference in ulp, 0 if there is none; None if it is more than fusion explains."""
    ulps = [item["ulp"] if isinstance(item, dict) else FUSION_ULP + 1 for item in differences.values()]
    worst: int = max(ulps, default=0)
    return worst if worst <= FUSION_ULP else None


def _natively(evidence: Mapping[str, Any]) -> str:
    return f"native: {_detail(evidence, evidence['compared'], 'the same')}"


def _linen(evidence: Mapping[str, Any]) -> str:
    linen = evidence["linen"]
    if not linen["layer"]:
        return ""
    if linen["why"]:
        return f"no Linen twin: {linen['why']}"
    if linen["tree"]:
        leaves = ", ".join(f"{path} is {kinds}" for path, kinds in list(linen["tree"].items())[:3])
        return f"Linen {linen['layer']}: another tree: {leaves}"
    program = {True: "the same optimised HLO", False: "another optimised HLO", None: "HLO not printed"}
    same = _detail(linen, evidence["compared"][1:], "the same")
    return f"Linen {linen['layer']}: the same tree; {same}; {program[evidence['hlo_equal'][LINEN]]}"


def _detail(found: Mapping[str, Any], parts: list[str], same: str) -> str:
    differing = [f"{WORDS[part]} in {closeness.largest_differences(found[part])}" for part in parts if found[part]]
    equal = [part for part in parts if not found[part]]
    words = " and ".join(filter(None, [", ".join(equal[:-1]), *equal[-1:]]))
    return "; ".join([f"{same} {words} bit for bit"] * bool(equal) + differing)


def _steady(evidence: Mapping[str, Any]) -> str:
    ratios = {name: Ratio(**ratio) for name, ratio in evidence["steady_ratio"].items()}
    return f"steady {', '.join(_times(name, ratio) for name, ratio in ratios.items())}"


def _times(name: str, ratio: Ratio) -> str:
    mark = "~" if ratio.flags else ""
    interval = f" (99 % interval {ratio.low:.2f} to {ratio.high:.2f})" if ratio.low is not None else ""
    return f"{mark}{ratio.median:.2f} × {name.replace(LINEN, 'Linen')}{interval}"
