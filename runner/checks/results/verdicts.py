"""Checks of a run's own numbers, and constructors of check results; checks of its program are in `checks`.

Each function returns its result with the evidence; the caller decides what a fail does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runner.arrays import trees
from runner.arrays.closeness import are_close, describe, differences, largest_differences
from runner.records.record import ArraySummary, Check, Verdict

COMPILED = """\
variables = jax.jit(model.init)(rngs, x)  # both compiled, as here: called without jit they give something else
output = jax.jit(model.apply)(variables, x)"""


# Checks whose failure means that a run's numbers are wrong: with `checks=strict` the run fails.
STRICT = frozenset(
    {
        "finite",
        "as_traced",
        "repeatable",
        "complete",
        "nothing_invented",
        "streams",
        "mutable",
        "seeded",
        "used",
        "pure",
        "rules",
        "axes",
        "pipeline",
        "mode",
    }
)


def finite(output: Sequence[ArraySummary]) -> Check:
    """Every element of the output is a number."""
    bad = {array.path or "output": array.num_non_finite for array in output if array.num_non_finite}
    total = sum(array.num_elements for array in output)
    detail = (
        f"{sum(bad.values())} of {total} elements are NaN or infinite" if bad else f"all {total} elements are finite"
    )
    return _check("finite", not bad, detail, {"non_finite": bad})


def as_traced(output: Any, expected: Any) -> Check:
    """The output has the shapes and dtypes that tracing predicted."""
    got = {_name(path): describe(leaf) for path, leaf in trees.flatten(output)}
    wanted = {_name(path): describe(leaf) for path, leaf in trees.flatten(expected)}
    wrong = {
        path: {"got": got.get(path), "wanted": wanted.get(path)}
        for path in got | wanted
        if got.get(path) != wanted.get(path)
    }
    detail = "; ".join(f"{path}: got {item['got']}, wanted {item['wanted']}" for path, item in wrong.items())
    return _check("as_traced", not wrong, detail or ", ".join(f"{path} {kind}" for path, kind in got.items()), wrong)


def repeatable(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> Check:
    """Repeating the call gives the same bits: otherwise a time would not belong to one result."""
    differing = differences(first, second)
    detail = f"differs in {largest_differences(differing)}" if differing else "the same bits again"
    return _check("repeatable", not differing, detail, differing)


def eager(
    variables: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
    output: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
) -> Check:
    """Compiled and eager calls give the same bits; rounding differences due to XLA fusion are only a warning.

    Args:
      variables: Leaves of compiled and of eager init.
      output: Arrays of compiled and of eager apply, on the same (compiled) variables.
    """
    init, apply = differences(*variables), differences(*output)
    parts = [
        f"{name} differs in {largest_differences(found)}" for name, found in (("init", init), ("apply", apply)) if found
    ]
    if not parts:
        return passed("eager", "init and apply give the same bits compiled and eager")
    if are_close(*variables) and are_close(*output):
        return warn("eager", "; ".join(parts), init=init, apply=apply)
    return fail("eager", "; ".join(parts), COMPILED, init=init, apply=apply)


def passed(name: str, detail: str, **evidence: Any) -> Check:
    """A check that holds."""
    return Check(name=name, verdict=Verdict.passed, detail=detail, evidence=evidence)


def fail(name: str, detail: str, fix: str | None = None, **evidence: Any) -> Check:
    """A check that does not hold; `fix` is what to type or write."""
    return Check(name=name, verdict=Verdict.fail, detail=detail, evidence=evidence, fix=fix)


def warn(name: str, detail: str, fix: str | None = None, **evidence: Any) -> Check:
    """A check that holds within limits named in the detail."""
    return Check(name=name, verdict=Verdict.warn, detail=detail, evidence=evidence, fix=fix)


def skipped(name: str, why: str) -> Check:
    """A check that this run leaves to another one, and why."""
    return Check(name=name, verdict=Verdict.skipped, detail=why)


def untested(name: str, why: str, fix: str | None = None) -> Check:
    """A check that could not be made, and why: a warn that counts as no pass, and that strict runs refuse."""
    return Check(name=name, verdict=Verdict.warn, detail=f"could not be tested: {why}", fix=fix, untested=True)


def words(error: Any) -> str:
    """The error's type and message on one truncated line, without the link to flax's documentation."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    text = re.sub(r" \(https://flax\.readthedocs\S+\)", "", text)
    return text if len(text) <= 300 else f"{text[:299]}…"


def _check(name: str, good: bool, detail: str, evidence: dict[str, Any]) -> Check:
    return Check(
        name=name,
        verdict=Verdict.passed if good else Verdict.fail,
        detail=detail,
        evidence=evidence if not good else {},
    )


def _name(path: trees.Path) -> str:
    return "/".join(str(part) for part in path) or "output"
