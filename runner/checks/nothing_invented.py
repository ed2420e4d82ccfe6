"""Check 2, nothing invented: apply draws no weights or masks from a key that was not passed to it.

A wrapped layer's constructor runs in every apply. What it draws is replaced by the variables passed to apply and is
then dead code; anything not passed stays as drawn from key 0, whatever the seed.
"""

from __future__ import annotations

from typing import Any

import jax

from runner.arrays import tree_diff
from runner.arrays.tree_diff import Kind
from runner.bridge import rngs
from runner.checks import complete, streams
from runner.checks.probes import as_code
from runner.checks.probes.subject import Subject
from runner.checks.results import verdicts
from runner.errors import listed
from runner.records.record import Check

NAME = "nothing_invented"
MAX_NAMED = 5

_OWN_STREAM = "\n".join(
    [
        "self.rngs = rngs  # in the constructor",
        "key = self.rngs.noise()  # in the call, for nnx.Rngs(0); then give apply rngs={'noise': key}",
    ]
)


def check(subject: Subject, *, full: bool) -> Check:
    """Whether everything that apply draws comes from the keys passed to it."""
    if left_out := _left_out(subject):
        names = listed(left_out, MAX_NAMED)
        detail = f"init leaves out {names}: apply makes them again at every call, from key 0 whatever the seed"
        return verdicts.fail(NAME, detail, as_code.LAZY_INIT, left_out=left_out)
    found = subject.draws
    lost = _lost(subject)
    evidence: dict[str, Any] = {"num_draws": len(found.draws), "num_made_up_keys": len(found.made_up)}
    if not found.invented and not lost:
        held = "comes from a stream that it is given" if found.draws else "draws nothing"
        return verdicts.passed(
            NAME, f"all that apply draws {held}" if found.draws else "apply draws nothing", **evidence
        )
    parts, fixes = [], []
    if lost:
        drawn = "from key 0 whatever the seed" if found.invented else "as constants"
        parts.append(f"apply makes up {listed(lost, MAX_NAMED)}, {drawn}")
        fixes.append(complete.fix(subject))
    missing = streams.absent(subject) if found.invented else []
    if missing:
        drawn_from = f"the stream{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
        parts.append(f"apply is not given {drawn_from}: what is drawn from there is the same at every call, from key 0")
        fixes.append(streams.fix(subject))
    own = sorted({line for line in found.made_up if line})
    if own:
        parts.append(
            f"the layer makes a key of its own ({listed(own, MAX_NAMED)}): what it draws is the same at every call"
        )
        fixes.append(_OWN_STREAM)
    if not parts:
        lines = sorted({draw.call.line for draw in found.draws if not draw.sources and draw.call.line})
        where = f" ({listed(lines, MAX_NAMED)})" if lines else ""
        parts.append(f"apply draws from a key that it is not given{where}: what it draws is the same at every call")
        fixes.append(_OWN_STREAM)
    evidence |= {"leaves": lost, "streams": missing, "keys_made_at": own}
    return verdicts.fail(NAME, "; ".join(parts), "\n".join(fixes), **evidence)


def _left_out(subject: Subject) -> list[str]:
    """Parameters that apply makes but init does not: those of an uninitialised Linen module inside the layer."""
    if rngs.PARAMS not in subject.needs.mutable:
        return []
    needs = subject.needs

    def updates(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        return subject.model.apply(variables, rngs.apply_keys(key, needs.streams), (rngs.PARAMS,), x)[1]

    made = tree_diff.leaf_kinds(jax.eval_shape(updates, needs.variables, subject.key, subject.x))
    return sorted("/".join(path) for path in made.keys() - tree_diff.leaf_kinds(needs.variables).keys())


def _lost(subject: Subject) -> list[str]:
    """Leaves that apply has to make itself; a wrapped layer also accepts a leaf from another collection."""
    return [
        one.path
        for one in subject.differences
        if one.kind is Kind.missing
        or (one.kind is Kind.moved and str(one.old).partition("/")[2] != one.path.partition("/")[2])
    ]
