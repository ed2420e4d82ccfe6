"""Check 3, streams: apply gets the rng streams that it draws from, and no key is drawn from twice.

Linen raises if a stream is missing; a wrapped NNX layer falls back to key 0, so that dropout always has the same mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from runner.arrays import trees
from runner.bridge import rngs
from runner.checks.parts import one_key
from runner.checks.probes.subject import Subject
from runner.checks.programs.draws import Draws
from runner.checks.results import verdicts
from runner.errors import nearest
from runner.records.record import Check

NAME = "streams"

# With a small x, two keys may give the same mask by chance; this many don't.
NUM_KEYS = 8


def check(subject: Subject, *, full: bool) -> Check:
    """Whether apply has its streams and no key is used twice; with `full`, whether other keys change the output."""
    if refused := _refused_init(subject):
        return refused
    wanted, missing = subject.wanted_streams, absent(subject)
    # If a stream is missing, Linen's own layers raise; a wrapped one does not.
    found = _draws(subject) if missing else subject.draws
    given = [stream for stream in subject.rngs if stream != rngs.PARAMS]
    unused = [stream for stream in given if stream not in wanted and stream not in subject.needs.streams]
    reuses = [*one_key.in_apply(subject, found), *one_key.kept(subject, found), *one_key.in_init(subject)]
    shared = [one for one in reuses if not one.meant]
    evidence: dict[str, Any] = {"init": list(subject.needs.streams), "apply": wanted, "given": given, "unused": unused}
    evidence |= {
        "num_draws": len(found.draws) if found else None,
        "shared": [one.evidence for one in reuses],
    }
    if missing or shared:
        parts = [_absence(missing, unused)] if missing else []
        parts += [one.words for one in shared]
        fixes = [fix(subject)] if missing else list(dict.fromkeys(one.fix for one in shared))
        return verdicts.fail(NAME, "; ".join(parts), "\n".join(fixes), **evidence)
    if reuses:
        return verdicts.warn(NAME, "; ".join(one.words for one in reuses), reuses[0].fix, **evidence)
    if unused and subject.pipeline is None:  # which gives every layer the same
        detail = f"apply is given {', '.join(unused)}, and nothing draws from {'it' if len(unused) == 1 else 'them'}"
        return verdicts.warn(NAME, detail, _without(subject, unused), **evidence)
    needs = f"init needs {', '.join(subject.needs.streams)}"
    if not wanted:
        return verdicts.passed(NAME, f"{needs}; apply draws from no stream", **evidence)
    if full and not _differs(subject):
        return verdicts.warn(NAME, f"the output is the same for {NUM_KEYS} keys of {', '.join(wanted)}", **evidence)
    return verdicts.passed(
        NAME, f"{needs}; apply draws from {', '.join(wanted)}, each time with another key", **evidence
    )


def _refused_init(subject: Subject) -> Check | None:
    """The fail for an init that raises with the streams passed to it; None if it does not raise."""
    if subject.init_rngs is None:
        return None
    given = subject.init_rngs
    try:
        jax.eval_shape(lambda key, x: subject.model.init(key, given, x), subject.key, trees.shapes(subject.x))
    except Exception as error:  # noqa: BLE001 - Linen's words, or NNX's
        needed, got = ", ".join(subject.needs.streams), ", ".join(given) or "none"
        detail = f"init needs {needed}, is given {got} and raises {verdicts.words(error)}"
        return verdicts.fail(NAME, detail, fix(subject), init=list(subject.needs.streams), given=list(given))
    return None


def absent(subject: Subject) -> list[str]:
    """Streams that apply draws from but that were not passed."""
    return [stream for stream in subject.wanted_streams if stream not in subject.rngs]


def fix(subject: Subject) -> str:
    """How to pass init and apply every stream they need: the config key, and the code."""
    init = ", ".join(f"'{stream}': k{num}" for num, stream in enumerate(subject.needs.streams, start=1))
    first = len(subject.needs.streams) + 1
    apply = ", ".join(f"'{stream}': k{num}" for num, stream in enumerate(subject.wanted_streams, start=first))
    words = ["layer.rngs=null", "# in a pipeline of your own:"] if subject.layer is not None else []
    code = [f"variables = model.init({{{init}}}, x)", f"output = model.apply(variables, x, rngs={{{apply}}})"]
    return "\n".join([*words, *code])


def _draws(subject: Subject) -> Draws | None:
    try:
        return subject.draws
    except Exception:  # noqa: BLE001 - what the layer raises without the stream
        return None


def _absence(missing: Sequence[str], unused: Sequence[str]) -> str:
    streams, it = ("stream", "it") if len(missing) == 1 else ("streams", "them")
    detail = f"apply needs the {streams} {', '.join(missing)} and is not given {it}"
    for stream in unused:
        detail += f"; nothing draws from {stream}"
        detail += f", is {close} meant?" if (close := nearest(stream, missing)) else ""
    return detail


def _without(subject: Subject, unused: Sequence[str]) -> str:
    kept = [stream for stream in subject.rngs if stream not in unused]
    if subject.layer is not None:
        return f"'layer.rngs=[{','.join(kept)}]'"
    return f"output = model.apply(variables, x, rngs={{{', '.join(f'{stream!r}: {stream}_key' for stream in kept)}}})"


def _differs(subject: Subject) -> bool:
    """Whether any other key gives a different output."""

    def outputs(num: int) -> Any:
        output, _ = subject.run(subject.variables, jax.random.fold_in(subject.key, num), subject.x)
        return trees.named_arrays(output)

    first = outputs(0)
    return any(
        not np.array_equal(first[path], array) for num in range(1, NUM_KEYS) for path, array in outputs(num).items()
    )
