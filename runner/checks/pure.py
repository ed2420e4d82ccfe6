"""Check, pure: the same settings, seed and input give the same numbers, in this process and in the next.

`init` and `apply` are traced twice and compared, with the constants that are baked in: a number from numpy.random, the
clock or a global counter differs from trace to trace. The second trace gets what another process would give for the
hash of a text or an object, for its id, its index (`jax.process_index()`) and the machine's name; where the layer asks
for none of these, the trace by which its needs were found is as good. What a callback gives is compared by calling
twice, only where there is one. The order of a set of names is the same within a process: it is found in the layer's own
source, and in that of the functions which it calls by name. Nor may the layer change JAX's or Flax's settings, which
other layers share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax

from runner.arrays import closeness, trees
from runner.checks.probes.subject import Subject
from runner.checks.programs import digests, traces
from runner.checks.results import verdicts
from runner.checks.user_code import first_traces, next_process, set_order, swapped
from runner.checks.user_code.first_traces import FirstTraces
from runner.errors import end_if_meant, listed
from runner.records.record import Check

NAME = "pure"

# Traces more where the global generators moved and two were equal: a coin may fall twice on one side.
MORE_TRACES = 4

FROM_RNGS = """\
# in the constructor: a number from a stream is the same for the same seed; in the call, one of its own stream
self.noise = nnx.Param(jax.random.normal(rngs.params(), (4, 8)))
y = y + jax.random.normal(self.rngs.noise(), y.shape)  # after self.rngs = rngs in the constructor"""

WITHIN = """\
with jax.default_matmul_precision("highest"):  # jax.enable_x64(True) likewise: for what is inside alone
    y = x @ self.kernel[...]"""

AT_START = "flax.config.update(…)  # where the pipeline starts, for all of its layers, and in none of them"

GIVEN_TIME = "self.day = day  # an argument of the constructor, so that it is in the config: layer.kwargs.day=…"

ON_ALL_HOSTS = "rngs.params()  # and nothing of jax.process_index(): all hosts run one program, with the same weights"

DIGEST = "zlib.crc32(b'name')  # in place of hash('name'): the same in every process"


def check(subject: Subject, *, full: bool) -> Check:
    """Init and apply are the same programs when they are traced again, and no callback or set changes their numbers."""
    del full
    if changed := subject.needs.settings:
        detail = f"constructing or calling the layer sets {listed(changed)} for the whole process"
        fix = WITHIN if any(one.startswith("jax") for one in changed) else AT_START
        return verdicts.fail(NAME, f"{detail}, every other layer included", fix, settings=list(changed))
    if not _is_as_before(subject) and (found := _traced_again(subject)):
        return found
    orders = set_order.of(subject)
    if orders:
        detail = f"the order of a set of names differs from process to process: {'; '.join(orders)}"
        fix = "sorted(…)  # around the set; or a tuple in its place"
        return verdicts.fail(NAME, f"{detail}; numbers can't be repeated", fix, sets=orders)
    if (found := _called_back(subject)) is not None:
        return found
    if unread := set_order.unread(subject):
        why = f"whether a loop goes over a set of names: the source of {listed(unread)} can't be read"
        return verdicts.warn(NAME, f"not known {why}", f"{unread[0]} in a file of its own, imported")
    return verdicts.passed(NAME, "init and apply are the same programs when traced again")


def _is_as_before(subject: Subject) -> bool:
    """Whether init and apply are as in the traces before, which asked nothing that another one could give otherwise."""
    if subject.first_traces is None:
        return False
    now = FirstTraces(init=digests.digest(subject.initialised), apply=digests.digest(subject.applied))
    return now == subject.first_traces


def _traced_again(subject: Subject) -> Check | None:
    modules = swapped.of_layers()
    before, counted = first_traces.generator_states(), first_traces.counted(modules)
    first = {"init": subject.initialised, "apply": subject.applied}
    try:
        with next_process.answers() as asked:
            differing = _changes(subject, first)
    except Exception:  # an index that this machine has not may be out of range
        if not any(one.startswith(next_process.INDEX) for one in asked):
            raise
        with next_process.answers(of_other_host=False) as asked:
            differing = _changes(subject, first)
    if asked and differing and not _changes(subject, first):
        return _of_this_process(differing, asked)
    moved = first_traces.moved_since(before)
    more = MORE_TRACES if moved else int(first_traces.counted(modules) != counted)
    for _ in range(0 if differing else more):
        subject.trace_init()  # a counter that takes turns is at the other one now
        differing = differing or _changes(subject, first)
    return _differs(differing, moved) if differing else None


def _changes(subject: Subject, first: Mapping[str, Any]) -> dict[str, str]:
    """The first line in which another trace of init, or of apply, differs from the first; only where it does."""
    again = {"init": subject.trace_init, "apply": subject.trace_apply}
    lines = {name: _first_difference(traces.lines(first[name]), traces.lines(again[name]())) for name in first}
    return {name: line for name, line in lines.items() if line}


def _first_difference(one: list[str], two: list[str]) -> str:
    if one == two:
        return ""
    pairs = [(a.strip(), b.strip()) for a, b in zip(one, two, strict=False) if a != b]
    if not pairs:
        return f"{len(one)} and {len(two)} lines"
    return " and ".join(text if len(text) <= 80 else f"{text[:79]}…" for text in pairs[0])


def _differs(differing: dict[str, str], moved: list[str]) -> Check:
    what = "; ".join(f"{name} has {line}" for name, line in differing.items())
    source = f"; drawn from {' and '.join(moved)}" if moved else ""
    detail = f"the same input, traced twice, differs: {what}{source}; numbers can't be repeated"
    return verdicts.fail(NAME, detail, FROM_RNGS, differing=differing, drawn_from=moved)


def _of_this_process(differing: dict[str, str], asked: list[str]) -> Check:
    what = "; ".join(f"{name} has {line}" for name, line in differing.items())
    detail = f"{listed(asked)} {'is' if len(asked) == 1 else 'are'} another in every process: {what}"
    if any(one.startswith(next_process.INDEX) for one in asked):
        fix = ON_ALL_HOSTS
    else:
        fix = GIVEN_TIME if all(one.startswith("time.") for one in asked) else DIGEST
    return verdicts.fail(NAME, f"{detail}; numbers can't be repeated", fix, differing=differing)


def _called_back(subject: Subject) -> Check | None:
    """What a callback gives twice; None where there is none, or where it gives the same."""
    in_init, in_apply = traces.callbacks(subject.initialised), traces.callbacks(subject.applied)
    shapes_only = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(subject.given))
    if not (in_init or in_apply) or shapes_only:
        return None
    try:
        return _call_twice(subject, in_init, in_apply)
    except Exception as error:  # noqa: BLE001 - whatever the callback raises
        end_if_meant(error)
        # The run itself raises it too, if it does so there, and has its own words for it.
        return verdicts.warn(NAME, f"{(in_init or in_apply)[0]} raises {_raised(error)}: what it gives is not known")


def _raised(error: Exception) -> str:
    """What a callback raised: JAX puts its whole traceback into an error of its own."""
    inside = re.findall(r"^ *((?:\w+\.)*\w+(?:Error|Exception)\b.*)$", str(error), re.MULTILINE)
    return str(inside[-1]) if inside else verdicts.words(error)


def _call_twice(subject: Subject, in_init: list[str], in_apply: list[str]) -> Check | None:
    if in_init:
        pair = (trees.unboxed_arrays(subject.make()), trees.unboxed_arrays(subject.make()))
    if in_init and (found := closeness.differences(*pair)):
        return _calls_differ("init", in_init, found)
    if in_apply:
        variables = subject.variables
        pair = tuple(trees.unboxed_arrays(subject.run(variables, subject.key, subject.x)) for _ in range(2))  # type: ignore[assignment]
        if found := closeness.differences(*pair):
            return _calls_differ("apply", in_apply, found)
    return None


def _calls_differ(name: str, names: list[str], found: Any) -> Check:
    where = closeness.largest_differences(found)
    detail = f"the same input, {name} called twice, differs in {where}: what {names[0]} gives differs each time"
    return verdicts.fail(NAME, f"{detail}; numbers can't be repeated", FROM_RNGS, differing={name: found})
