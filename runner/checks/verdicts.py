"""What is tested about a run's own numbers, and how a verdict is said; claims about its program are in `claims`.

Each function returns its verdict with the evidence; what a no does is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from runner.arrays import trees
from runner.records.record import ArraySummary, Check, Verdict

# A sum in another order is off by a few units in the last place of the largest number in it.
MAX_ROUNDING = 64

COMPILED = """\
variables = jax.jit(model.init)(rngs, x)  # both compiled, as here: called without jit they give something else
output = jax.jit(model.apply)(variables, x)"""

# Tests whose no makes the numbers of a run wrong: with `checks=strict` the run fails.
STRICT = frozenset({"finite", "as_traced", "complete", "nothing_invented", "streams", "mutable"})


def finite(output: Sequence[ArraySummary]) -> Check:
    """Every element of the output is a number."""
    bad = {array.path or "output": array.num_non_finite for array in output if array.num_non_finite}
    total = sum(array.num_elements for array in output)
    detail = (
        f"{sum(bad.values())} of {total} elements are NaN or infinite" if bad else f"all {total} elements are finite"
    )
    return _check("finite", not bad, detail, {"non_finite": bad})


def as_traced(output: Any, expected: Any) -> Check:
    """The output has the shapes and element types that tracing promised."""
    got = {_name(path): _kind(leaf) for path, leaf in trees.flatten(output)}
    wanted = {_name(path): _kind(leaf) for path, leaf in trees.flatten(expected)}
    wrong = {
        path: {"got": got.get(path), "wanted": wanted.get(path)}
        for path in got | wanted
        if got.get(path) != wanted.get(path)
    }
    detail = "; ".join(f"{path}: got {item['got']}, wanted {item['wanted']}" for path, item in wrong.items())
    return _check("as_traced", not wrong, detail or ", ".join(f"{path} {kind}" for path, kind in got.items()), wrong)


def repeatable(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> Check:
    """The same call gives the same bits again: only then does a time belong to one result."""
    differing = differences(first, second)
    detail = f"differs in {largest(differing)}" if differing else "the same bits again"
    return _check("repeatable", not differing, detail, differing)


def eager(
    variables: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
    output: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
) -> Check:
    """Compiled and eager calls give the same bits; XLA may fuse what eager calls round one by one, which is a caution.

    Args:
      variables: Leaves of compiled and of eager init.
      output: Arrays of compiled and of eager apply, on the same (compiled) variables.
    """
    init, apply = differences(*variables), differences(*output)
    parts = [f"{name} differs in {largest(found)}" for name, found in (("init", init), ("apply", apply)) if found]
    if not parts:
        return yes("eager", "init and apply give the same bits compiled and eager")
    if are_close(*variables) and are_close(*output):
        return caution("eager", "; ".join(parts), init=init, apply=apply)
    return no("eager", "; ".join(parts), COMPILED, init=init, apply=apply)


def yes(name: str, detail: str, **evidence: Any) -> Check:
    """The claim holds."""
    return Check(name=name, verdict=Verdict.yes, detail=detail, evidence=evidence)


def no(name: str, detail: str, mend: str | None = None, **evidence: Any) -> Check:
    """The claim does not hold; `mend` is what to type or write."""
    return Check(name=name, verdict=Verdict.no, detail=detail, evidence=evidence, mend=mend)


def caution(name: str, detail: str, mend: str | None = None, **evidence: Any) -> Check:
    """The claim holds within limits that the detail names."""
    return Check(name=name, verdict=Verdict.caution, detail=detail, evidence=evidence, mend=mend)


def skipped(name: str, why: str) -> Check:
    """A claim that was not tested, and why."""
    return Check(name=name, verdict=Verdict.skipped, detail=why)


def words(error: Any) -> str:
    """The error's type and message on one line of bearable length, without the address of flax's page on it."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    text = re.sub(r" \(https://flax\.readthedocs\S+\)", "", text)
    return text if len(text) <= 300 else f"{text[:299]}…"


def differences(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What differs between two sets of named arrays: by how many ulp, or what is not in both."""
    found: dict[str, Any] = {}
    for path in sorted(first.keys() | second.keys()):
        one, two = first.get(path), second.get(path)
        if one is None or two is None:
            found[path] = "only in the first" if two is None else "only in the second"
        elif (one.shape, one.dtype) != (two.shape, two.dtype):
            found[path] = f"{_kind(one)} against {_kind(two)}"
        elif trees.array_digest(one) != trees.array_digest(two):
            found[path] = {"ulp": trees.ulp_distance(one, two), "num_elements": int(np.sum(one != two))}
    return found


def are_close(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    """Whether two sets of named arrays are the same but for rounding.

    Numbers that lie `MAX_ROUNDING` times the resolution of their type apart, at the scale of the largest of them all,
    are taken for rounding: a gradient that is zero but for rounding has no scale of its own.
    """
    found = differences(first, second)
    if any(isinstance(item, str) for item in found.values()):
        return False
    largest = max((_largest_finite(leaf) for leaf in second.values()), default=0.0)
    return all(_is_close(first[path], second[path], largest) for path in found)


def _largest_finite(leaf: np.ndarray) -> float:
    values = np.abs(_numbers(leaf))
    return float(np.max(values, where=np.isfinite(values), initial=0))


def _is_close(got: np.ndarray, wanted: np.ndarray, largest: float) -> bool:
    if not jnp.issubdtype(got.dtype, jnp.inexact):
        return False
    atol = MAX_ROUNDING * float(jnp.finfo(got.dtype).eps) * largest
    return bool(np.allclose(_numbers(got), _numbers(wanted), rtol=0, atol=atol, equal_nan=True))


def apart(kept: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray]) -> float:
    """The largest difference of two sets of named arrays of the same kinds, in units of the largest value kept."""
    with np.errstate(invalid="ignore"):  # of two infinities
        pairs = [(_numbers(kept[name]), _numbers(made[name])) for name in kept]
        largest = max((float(np.nanmax(np.abs(one), initial=0.0)) for one, _ in pairs), default=0.0)
        distance = max((float(np.nanmax(np.abs(one - two), initial=0.0)) for one, two in pairs), default=0.0)
    return distance / largest if largest else distance


def _numbers(array: np.ndarray) -> np.ndarray:
    """`array` in float64; of complex numbers both parts, one after the other."""
    parts = (array.real, array.imag) if np.iscomplexobj(array) else (array,)
    return np.concatenate([trees.as_float64(np.ravel(part)) for part in parts])


def _check(name: str, good: bool, detail: str, evidence: dict[str, Any]) -> Check:
    return Check(
        name=name, verdict=Verdict.yes if good else Verdict.no, detail=detail, evidence=evidence if not good else {}
    )


def largest(found: Mapping[str, Any]) -> str:
    """The first three of `differences` in words, and how many more."""
    parts = [
        f"{path or 'output'} by {item['ulp']} ulp" if isinstance(item, dict) else f"{path or 'output'} ({item})"
        for path, item in found.items()
    ]
    return ", ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _name(path: trees.Path) -> str:
    return "/".join(str(part) for part in path) or "output"
