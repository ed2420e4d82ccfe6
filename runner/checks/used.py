"""Check 6, used: the layer gives something, the host calls it, and the output depends on what it gives."""

from __future__ import annotations

import jax

from runner.bridge import lifts
from runner.checks.probes.subject import Subject
from runner.checks.results import verdicts
from runner.errors import listed
from runner.records.record import Check

NAME = "used"


def check(subject: Subject, *, full: bool) -> Check:
    """Whether what the layer computes reaches the output; only traces."""
    leaves = [leaf for leaf in jax.tree.leaves(subject.returned[0]) if leaf.size]
    if not leaves:
        given = jax.tree.structure(subject.returned[0])
        what = "None" if subject.returned[0] is None else str(given).removeprefix("PyTreeDef(").removesuffix(")")
        return verdicts.fail(
            NAME, f"the call returns no array but {what}: nothing to use or train", "return y  # at the end of __call__"
        )
    if lifts.is_wrapped(subject.model):
        return verdicts.passed(NAME, f"the layer gives {len(leaves)} array{'s' * (len(leaves) > 1)}")
    calls = subject.hosted_calls
    if not calls:
        if subject.layer is None:  # a host that is known by itself may have none
            return verdicts.passed(NAME, "no wrapped layer is called")
        detail = "the host never calls the layer: what it computes is the same without it"
        return verdicts.fail(NAME, detail, "x = self.layer()(x)  # in the host")
    paths = list(dict.fromkeys(call.path for call in calls))
    if any(call.counts is None for call in calls):
        return verdicts.untested(NAME, f"the host calls {listed(paths)} inside a transform that takes no other input")
    dead = [path for path in paths if not any(call.counts for call in calls if call.path == path)]
    if not dead:
        return verdicts.passed(NAME, f"the host's output depends on {listed(paths)}", calls=len(calls))
    say = verdicts.fail if len(dead) == len(paths) else verdicts.warn
    detail = f"the host calls {listed(dead)}, and its output does not depend on what {_they(dead)}"
    return say(NAME, detail, f"x = self.layer()(x)  # in the host, and what follows takes that x: {dead[0]}", dead=dead)


def _they(paths: list[str]) -> str:
    return "it gives" if len(paths) == 1 else "they give"
