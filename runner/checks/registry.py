"""The checks: is this layer safe inside Linen? One file per check, each with a `check(subject, *, full)`.

Those in `TRACED` only trace, which costs a fraction of compiling, so a sweep runs them on every program. With `full`
they also execute what they check, and the others run too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from runner.checks import (
    checkpoint,
    complete,
    lifts,
    mode,
    mutable,
    nothing_invented,
    parity,
    pure,
    seeded,
    sharding,
    streams,
    trained,
    traps,
    used,
)
from runner.checks.parts import init_errors
from runner.checks.pipeline import axes, calls, contract, rules
from runner.checks.probes.subject import Subject, subject_of
from runner.checks.results import verdicts
from runner.errors import LayerError, LayerFaultError, UserError, end_if_meant, nearest, no_exit
from runner.records.record import Check

CheckFunction = Callable[..., Check]

TRACED: Mapping[str, CheckFunction] = {
    "complete": complete.check,
    "nothing_invented": nothing_invented.check,
    "streams": streams.check,
    "mutable": mutable.check,
    "trained": trained.check,
    "used": used.check,
    "pure": pure.check,
    "seeded": seeded.check,
    "mode": mode.check,
    "rules": rules.check,
    "axes": axes.check,
    "pipeline": contract.check,
}

# Those that not every pipeline gives cause for.
ASKED_IF: Mapping[str, Callable[[Subject], bool]] = {
    "rules": rules.is_asked,
    "axes": axes.is_asked,
    "pipeline": contract.is_asked,
}

FULL: Mapping[str, CheckFunction] = {
    "parity": parity.check,
    "lifts": lifts.check,
    "checkpoint": checkpoint.check,
    "sharding": sharding.check,
    "traps": traps.check,
}


def run_checks(
    subject: Subject, *, full: bool, only: Collection[str] | None = None, each: Callable[[Check], None] | None = None
) -> list[Check]:
    """Runs the checks on `subject`, in order; one that can't be made is a warn that says why, marked as `untested`.

    Args:
      subject: The module to check.
      full: Whether to compile and run everything, or only to trace.
      only: Names of the checks to run; None for all.
      each: Gets every result as soon as it is known.
    """
    checks = {**TRACED, **FULL} if full else TRACED
    raised: dict[str, str] = {}
    wanted = {
        name: check
        for name, check in checks.items()
        if (name in only if only is not None else name not in ASKED_IF or ASKED_IF[name](subject))
    }
    results = []
    for name, check in wanted.items():
        results.append(_asked(name, check, subject, full=full, raised=raised))
        if each is not None:
            each(results[-1])
    return results


def check_model(model: Any, x: Any, *, only: Sequence[str] | str | None = None, **options: Any) -> list[Check]:
    """Runs every check on a Linen module, for its author's tests: `runner.check(model, x)`.

    Args:
      model: A `flax.linen.Module` that is called with `x`: a wrapped layer, or a host with one in it.
      x: Input.
      only: Names of the checks to run, if all of them take too long; None for all.
      **options: Those of `runner.checks.probes.subject.subject_of`: variables, rngs, init_rngs, mutable, call,
        trained, label, again, rules; and of `calls.as_called`: pipeline, wrapped_by, metadata_fn.

    Raises:
      LayerError: The module rejects its arguments or the input, for a reason that no check knows.
      UserError: `only` has an unknown name, or an argument is not a module, an array or variables.
    """
    only = [only] if isinstance(only, str) else only
    require_names(only or (), "only")
    model, options = calls.as_called(model, **options)
    with calls.context(options.get("pipeline")):
        return _of_model(model, x, only, options)


def _of_model(model: Any, x: Any, only: Sequence[str] | None, options: Mapping[str, Any]) -> list[Check]:
    try:
        subject = subject_of(model, x, **options)
    except LayerError as error:
        if isinstance(error, LayerFaultError):
            return [verdicts.fail(complete.NAME, error.what, error.suggestion)]
        known = model if hasattr(model, "nnx_class") else None
        cause = init_errors.why_it_fails(error, known) or sharding.why_it_fails(error)
        if cause is None:
            raise
        return [cause]
    return run_checks(subject, full=True, only=only)


def require_names(names: Sequence[str], argument: str) -> None:
    """Checks that `names`, given as `argument`, are names of checks.

    Raises:
      UserError: One is not.
    """
    known = [*TRACED, *FULL]
    for name in names:
        if name not in known:
            what = f"{argument}={name!r}: no such check; there are {', '.join(known)}"
            raise UserError(what, f"{argument}=[{nearest(name, known) or known[0]!r}]")


def _asked(name: str, check: CheckFunction, subject: Subject, *, full: bool, raised: dict[str, str]) -> Check:
    try:
        with no_exit():
            return contract.told(check(subject, full=full), subject.pipeline)
    except Exception as error:  # noqa: BLE001 - whatever the layer's own code raises
        end_if_meant(error)
        # One cause may block many checks: it is reported with the first.
        first = raised.setdefault(words := verdicts.words(error), name)
        return verdicts.untested(name, words if first == name else f"as {first}")
