"""The claims: is this layer safe inside Linen? One file a claim, each with a `judge(subject, *, full)`.

Claims 1 to 5 are answered by tracing alone, which costs a fraction of compiling, so every program of a sweep is asked
them; with `full` they also run what they are about, and the other five are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from runner.checks import (
    checkpoint,
    complete,
    init_errors,
    lifts,
    mutable,
    nothing_invented,
    parity,
    sharding,
    streams,
    trained,
    traps,
    verdicts,
)
from runner.checks.probes.subject import Subject, subject_of
from runner.errors import LayerError, UserError, nearest
from runner.records.record import Check

Judge = Callable[..., Check]

TRACED: Mapping[str, Judge] = {
    "complete": complete.judge,
    "nothing_invented": nothing_invented.judge,
    "streams": streams.judge,
    "mutable": mutable.judge,
    "trained": trained.judge,
}

FULL: Mapping[str, Judge] = {
    "parity": parity.judge,
    "lifts": lifts.judge,
    "checkpoint": checkpoint.judge,
    "sharding": sharding.judge,
    "traps": traps.judge,
}


def judge(subject: Subject, *, full: bool, only: Collection[str] | None = None) -> list[Check]:
    """What the claims say of `subject`, in order; a claim that can't be tested is skipped and says why.

    Args:
      subject: What is judged.
      full: Whether everything is compiled and run for it, or only what tracing shows.
      only: Names of the claims to ask; None for all.
    """
    claims = {**TRACED, **FULL} if full else TRACED
    raised: dict[str, str] = {}
    wanted = {name: claim for name, claim in claims.items() if only is None or name in only}
    return [_asked(name, claim, subject, full=full, raised=raised) for name, claim in wanted.items()]


def judge_model(model: Any, x: Any, *, only: Sequence[str] | str | None = None, **options: Any) -> list[Check]:
    """What every claim says of a Linen module, for the tests of who writes it: `runner.check(model, x)`.

    Args:
      model: A `flax.linen.Module` that is called with `x`: a wrapped layer, or a host with one in it.
      x: Input.
      only: Names of the claims to ask, where all ten take too long; None for all.
      **options: Those of `runner.checks.probes.subject.subject_of`: variables, rngs, init_rngs, mutable, call,
        trained, label, again.

    Raises:
      LayerError: The module refuses its arguments or the input, for no cause that a claim knows.
      UserError: `only` names no claim, or what is given is no module, array or variables.
    """
    only = [only] if isinstance(only, str) else only
    _require_claims(only or ())
    try:
        subject = subject_of(model, x, **options)
    except LayerError as error:
        known = model if hasattr(model, "nnx_class") else None
        cause = init_errors.why_it_fails(error, known) or sharding.why_it_fails(error)
        if cause is None:
            raise
        return [cause]
    return judge(subject, full=True, only=only)


def _require_claims(names: Sequence[str]) -> None:
    known = [*TRACED, *FULL]
    for name in names:
        if name not in known:
            what = f"only={name!r}: no such claim; there are {', '.join(known)}"
            raise UserError(what, f"only=[{nearest(name, known) or known[0]!r}]")


def _asked(name: str, claim: Judge, subject: Subject, *, full: bool, raised: dict[str, str]) -> Check:
    try:
        return claim(subject, full=full)
    except Exception as error:  # noqa: BLE001 - whatever the layer's own code raises
        # One cause may be in the way of many claims: it is said with the first.
        first = raised.setdefault(words := verdicts.words(error), name)
        return verdicts.skipped(name, f"could not be tested: {words if first == name else f'as {first}'}")
