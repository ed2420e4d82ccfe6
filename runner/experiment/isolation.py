"""Proves that runs of a program can train as one: a run's bits must not depend on which runs the others are.

The proof is by trying, on runs that no sweep chooses, so that the answer is the same whichever runs are to do: a few
steps in another order, and among other neighbours, which hold NaN. Where a bit changes, every run trains alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.arrays import closeness, trees
from runner.checks.results import verdicts
from runner.config.enums import ChecksMode
from runner.config.settings.run import Run
from runner.errors import end_if_meant, no_exit
from runner.experiment.draft import Draft
from runner.experiment.failures import describe_failure
from runner.experiment.program import Program, compile_population
from runner.experiment.train.population import Chunk, Member, Population
from runner.experiment.trained_run import arguments_of, initial_of, make_member, train_alone, train_members
from runner.records.record import Check, Together

NAME = "together"

# Steps that the proof makes: the second one starts from what the first one carried over.
PROOF_STEPS = 2

# Steps for which a run is trained alone too, to say how far that is from training it with others.
COMPARED_STEPS = 100


def compiled(draft: Draft) -> tuple[Population | None, Together | None]:
    """The training of several runs of `draft`, if they are to train as one and JAX can compile that.

    May be called from any thread.
    """
    if not draft.together or draft.training is None:
        return None, None
    together = Together(num=draft.together)
    try:
        with no_exit():
            return compile_population(draft, draft.training), together
    except Exception as error:  # noqa: BLE001 - the layer's own code may raise anything where it is batched
        end_if_meant(error)
        reason = f"JAX can't compile a step of several runs: {_words(error)}"
        return None, dataclasses.replace(together, alone=reason)


def proved(program: Program, run: Run) -> Program:
    """`program` without its population if the runs in it would depend on one another; else measured on `run`.

    Args:
      program: The program with its population, and that it is to have one.
      run: The run that is also trained alone.
    """
    if program.population is None or program.together is None:
        return program
    try:
        with program.draft.placement.context(), no_exit():
            reason = _why_mixed(program, run)
            measured = program.together if reason else _measured(program, run)
    except Exception as error:  # noqa: BLE001 - the layer's own code may raise anything
        end_if_meant(error)
        reason, measured = f"training several runs as one fails: {_words(error)}", program.together
    if reason is None:
        return dataclasses.replace(program, together=measured)
    together = dataclasses.replace(program.together, alone=reason)
    return dataclasses.replace(program, population=None, together=together)


def check(program: Program, run: Run) -> list[Check]:
    """How the runs of `program` train as one, as a check; none if each was to train alone."""
    if program.together is None or run.checks.mode is ChecksMode.off:
        return []
    return [_check(program.together)]


def _check(together: Together) -> Check:
    if together.alone is not None:
        return verdicts.warn(NAME, f"each run trains alone: {together.alone}")
    num = f"{together.num} runs train as one program, and the bits of one do not depend on the others"
    far = f"from the same run alone, after {together.num_steps} steps, the losses are"
    if not together.loss_ulp and not together.params_ulp:
        return verdicts.passed(NAME, f"{num}; {far} the same bits, and so are the variables")
    apart = f"{far} up to {_far(together.loss_abs, together.loss_ulp)} away, the variables up to "
    detail = f"{num}; {apart}{_far(together.params_abs, together.params_ulp)}"
    return verdicts.passed(NAME, detail)


def _far(number: float | None, ulp: int | None) -> str:
    return f"{ulp} ulp" if number is None else f"{number:.2g} ({ulp} ulp)"


def _why_mixed(program: Program, run: Run) -> str | None:
    """Why the runs of `program` can't train as one; None if they can."""
    population = program.population
    assert population is not None
    members = [_member(program, run, seed) for seed in range(population.size)]
    mine, first_loss = _trained(program, members), members[0].curve.losses[0]
    last, others = members[-1], _strangers(members[:-1], poisoned=not population.loops)
    if _trained(program, members[::-1])[::-1] != mine:
        return "the layer tells runs apart by their place: in another order they have other bits"
    if _trained(program, [last, *others])[0] != mine[-1]:
        return "the layer mixes runs: a run among others has other bits"
    return _why_other(program, members[0], first_loss, run)


def _why_other(program: Program, member: Member, loss: float, run: Run) -> str | None:
    """Why the first loss of a run among others is not that of the run alone; None if only rounding is."""
    assert program.training is not None
    other = _own(run, 0)
    alone = train_alone(
        other, program, program.training, member.initial, arguments_of(other, program), num_steps=member.step + 1
    ).info.losses[0]
    draft = program.draft
    kinds = [leaf.dtype for leaf in jax.tree.leaves((draft.variables, draft.needs.output))]
    coarsest = max(
        float(jnp.finfo(kind).eps) for kind in [np.dtype("float32"), *kinds] if jnp.issubdtype(kind, jnp.inexact)
    )
    if np.isclose(loss, alone, rtol=closeness.MAX_ROUNDING * coarsest, atol=0, equal_nan=True):
        return None
    return f"the layer mixes runs: among others the first loss of a run is {loss:.6g}, and alone {alone:.6g}"


def _own(run: Run, seed: int) -> Run:
    """A run that is none of the sweep's."""
    return dataclasses.replace(run, seed=seed, input=dataclasses.replace(run.input, seed=seed))


def _member(program: Program, run: Run, seed: int) -> Member:
    other = _own(run, seed)
    arguments = arguments_of(other, program)
    return make_member(other, program, initial_of(program, arguments), arguments)


def _strangers(members: Sequence[Member], *, poisoned: bool) -> list[Member]:
    """Members with other values: what is finite in one run must not be touched by what is not in another."""

    def changed(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return np.full_like(leaf, np.nan) if poisoned else leaf * np.asarray(-3, leaf.dtype)

    return [
        dataclasses.replace(
            one,
            state=one.state.replace(
                params=jax.tree.map(changed, one.state.params), others=jax.tree.map(changed, one.state.others)
            ),
            teacher=jax.tree.map(changed, one.teacher),
            learning_rate=one.learning_rate * 2,
            input=dataclasses.replace(one.input, seed=one.input.seed + len(members) + 1),
        )
        for one in members
    ]


def _trained(program: Program, members: Sequence[Member]) -> list[bytes]:
    """The bits of each member after a few steps."""
    assert program.population is not None
    for one in members:
        one.curve.losses.clear()
    chunk = Chunk(program.population, members)
    while chunk.step < members[0].step + PROOF_STEPS:
        chunk.advance(PROOF_STEPS, clock=time.perf_counter_ns)
    found = []
    for place, one in enumerate(members):
        leaves = jax.tree.leaves(chunk.state(place))
        found.append(np.asarray(one.curve.losses).tobytes() + b"".join(leaf.tobytes() for leaf in leaves))
    return found


def _measured(program: Program, run: Run) -> Together:
    """What the record says of the program: how far `run` is from itself trained alone."""
    assert program.training is not None
    assert program.together is not None
    arguments = arguments_of(run, program)
    initial = initial_of(program, arguments)
    member = make_member(run, program, initial, arguments)
    num_steps = min(run.train.steps, member.step + COMPARED_STEPS)
    unsaved = dataclasses.replace(run, train=dataclasses.replace(run.train, save_every=0))
    (mine,) = train_members(program, [(unsaved, member)], num_steps=num_steps)
    if isinstance(mine, Exception):
        raise mine
    alone = train_alone(run, program, program.training, initial, arguments, num_steps=num_steps)
    losses = [np.asarray(one.info.losses, np.float32) for one in (mine, alone)]
    params = [trees.unboxed_arrays(one.variables) for one in (mine, alone)]
    return dataclasses.replace(
        program.together,
        measured_on=run.seed,
        num_steps=len(mine.info.losses),
        loss_ulp=trees.ulp_distance(*losses),
        loss_abs=_apart(*losses),
        params_ulp=max((trees.ulp_distance(leaf, params[1][path]) for path, leaf in params[0].items()), default=0),
        params_abs=_largest([_apart(leaf, params[1][path]) for path, leaf in params[0].items()]),
    )


def _apart(one: np.ndarray, two: np.ndarray) -> float | None:
    if not one.size:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        far = float(np.max(np.abs(closeness.as_numbers(one) - closeness.as_numbers(two))))
    return far if np.isfinite(far) else None


def _largest(found: Sequence[float | None]) -> float | None:
    known = [one for one in found if one is not None]
    return max(known, default=0.0) if len(known) == len(found) else None


def _words(error: Exception) -> str:
    failure = describe_failure(error)
    first = failure.message.strip().splitlines() or [""]
    return f"{failure.type}: {first[0]}"
