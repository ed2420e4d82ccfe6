"""What the check streams says of a key that is used more than once, in apply or in init."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from runner.arrays import trees
from runner.arrays.tree_diff import Kind
from runner.checks.probes.subject import VARIABLES, Subject
from runner.checks.programs.draws import Draws
from runner.checks.programs.reuse import Reuse, reused
from runner.errors import listed

MAX_LINES = 3

KEY_EACH = "k1, k2 = jax.random.split(key)  # one key for each draw; of a stream, call rngs.dropout() for each"
KEY_A_ROUND = "key = jax.random.fold_in(key, i)  # in round i; or split it before, and give each round its own"
FROM_STREAM = "key = self.rngs.noise()  # in the call, with self.rngs = rngs in the constructor: a new key at each call"
SPLIT_RNGS = "split_rngs={'params': True, 'dropout': True}  # of nn.scan: a key for each round"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A key that is used more than once.

    Attributes:
      words: Where, and what follows.
      fix: What to write instead.
      meant: Whether it is right under the condition that `words` name.
      evidence: The shapes and lines of the draws.
    """

    words: str
    fix: str
    meant: bool
    evidence: dict[str, Any]


def in_apply(subject: Subject, found: Draws | None) -> list[Finding]:
    """The keys that apply uses more than once."""
    if found is None:
        return []
    # Invented weights share keys too; the check nothing_invented reports those.
    lost = any(one.kind in (Kind.missing, Kind.moved) for one in subject.differences)
    return [_in_apply(one) for one in reused(found, without_source=not lost)]


def kept(subject: Subject, found: Draws | None) -> list[Finding]:
    """The keys among the variables that apply draws from and never changes: Linen has none, so nothing names them."""
    drawn = [one for one in found.draws if one.sources == {VARIABLES}] if found else []
    leaves = [path for path, leaf in trees.flatten(trees.unbox(subject.shapes)) if _may_be_key(leaf)]
    if not drawn or not leaves or any(path[0] in subject.needs.mutable for path in leaves):
        return []
    lines = list(dict.fromkeys(one.call.line for one in drawn if one.call.line))
    at = f" ({listed(lines, MAX_LINES)})" if lines else ""
    shapes = [list(one.shape) for one in drawn]
    words = (
        f"apply draws {shapes[0]} from {listed(trees.spell_each(leaves), MAX_LINES)}{at}, which no call changes: "
        "what is drawn is the same at every call"
    )
    evidence = {"shapes": shapes, "lines": lines, "equal": True, "every_round": False}
    return [Finding(words=words, fix=FROM_STREAM, meant=False, evidence=evidence)]


def _may_be_key(leaf: Any) -> bool:
    """Whether a leaf is a typed key, the data of one, or a seed."""
    return trees.is_key(leaf) or jnp.issubdtype(leaf.dtype, jnp.integer)


def in_init(subject: Subject) -> list[Finding]:
    """The keys that init uses more than once for the variables that it makes."""
    paths = ["/".join(map(str, path)) for path, _ in trees.flatten(subject.needs.variables)]
    outputs = subject.init_draws.outputs
    findings = []
    for one in reused(subject.init_draws):
        leaves = [path for path, calls in zip(paths, outputs, strict=True) if calls & one.calls]
        findings.append(_in_init(one, leaves))
    return findings


def _in_apply(one: Reuse) -> Finding:
    shapes = [str(list(shape)) for shape in one.shapes]
    if one.every_round:
        words = f"{shapes[0]} is drawn from one key in every round{_at(one)}: each round draws the same"
        meant = one.shared_over is not None and VARIABLES not in one.shared_over
        if meant:
            words += ", right only where that is meant, as for dropout with one mask for all steps"
        return Finding(words=words, fix=_fix_of_loop(one), meant=meant, evidence=_evidence(one))
    if len(set(shapes)) == 1:
        then = "their masks are equal" if one.equal else "they depend on each other"
        words = f"{len(shapes)} draws of shape {shapes[0]} come from one key{_at(one)}: {then}"
    else:
        words = f"draws of shapes {' and '.join(shapes)} come from one key{_at(one)}: they depend on each other"
    return Finding(words=words, fix=KEY_EACH, meant=False, evidence=_evidence(one))


def _in_init(one: Reuse, leaves: Sequence[str]) -> Finding:
    names = listed(leaves, 5)
    if one.every_round:
        words = f"init draws {names} from one key in every round{_at(one)}: what is stacked starts equal"
        return Finding(words=words, fix=_fix_of_loop(one), meant=False, evidence=_evidence(one))
    times = "" if len(leaves) > 1 else f" {len(one.shapes)} times"
    then = "they start equal" if one.equal and len(leaves) > 1 else "what is drawn there is not independent"
    words = f"init draws {names}{times} from one key{_at(one)}: {then}"
    return Finding(words=words, fix=KEY_EACH, meant=False, evidence=_evidence(one))


def _evidence(one: Reuse) -> dict[str, Any]:
    shapes, lines = [list(shape) for shape in one.shapes], list(one.lines)
    return {"shapes": shapes, "lines": lines, "equal": one.equal, "every_round": one.every_round}


def _fix_of_loop(one: Reuse) -> str:
    return SPLIT_RNGS if one.shared_over is not None else KEY_A_ROUND


def _at(one: Reuse) -> str:
    return f" ({listed(one.lines, MAX_LINES)})" if one.lines else ""
