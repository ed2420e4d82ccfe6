"""Trains the runs of a program: one alone, or several as one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from runner.bridge import rngs
from runner.config.settings.run import Run
from runner.experiment import inputs
from runner.experiment.program import Program, compile_population, compile_training
from runner.experiment.train import evaluation, population, teacher, training
from runner.experiment.train.curve import Curve, Steps, Watch
from runner.experiment.train.population import Member
from runner.experiment.train.train_state import filled_from, with_saved
from runner.experiment.train.training import CompiledTraining, Trained, Training
from runner.timing.clock import Clock

# Inputs and teachers that are kept for the next runs: as a rule, a sweep has one of each.
MAX_SHARED = 8

Arguments = tuple[jax.Array, jax.Array]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Who sees a run while it trains, and where its steps are saved."""

    watch: Watch | None = None
    steps: Steps | None = None


UNSEEN = Seen()


def train(
    run: Run,
    program: Program,
    initial: Any,
    arguments: Arguments,
    *,
    clock: Clock = time.perf_counter_ns,
    seen: Seen = UNSEEN,
) -> Trained:
    """Trains `run` by itself: alone, or in a program for several, with copies of it in the other places.

    Args:
      run: The run.
      program: Its program.
      initial: The variables that it starts from.
      arguments: Its root key and x.
      clock: Nanoseconds from any fixed origin.
      seen: Who sees it.

    Raises:
      Stopped: Its `steps` ended it.
    """
    if program.population is None:
        assert program.training is not None
        how = program.training.training.at_rate(run.train.learning_rate)
        same = how == program.training.training
        compiled = program.training if same else compile_training(program.draft, how)
        return train_alone(run, program, compiled, initial, arguments, clock=clock, seen=seen)
    member = make_member(run, program, initial, arguments, seen=seen)
    (trained,) = train_members(program, [(run, member)], clock=clock)
    if isinstance(trained, Exception):
        raise trained
    return trained


def train_like(run: Run, program: Program, how: Training, initial: Any, arguments: Arguments) -> Sequence[float]:
    """The losses of another training from the same variables on the same inputs, as `run` itself was trained."""
    how = how.at_rate(run.train.learning_rate)
    compiled = compile_training(program.draft, how)
    if program.population is None:
        return train_alone(run, program, compiled, initial, arguments).info.losses
    other = dataclasses.replace(program, training=compiled, population=compile_population(program.draft, how))
    return train(run, other, initial, arguments).info.losses


def train_alone(
    run: Run,
    program: Program,
    compiled: CompiledTraining,
    initial: Any,
    arguments: Arguments,
    *,
    num_steps: int | None = None,
    clock: Clock = time.perf_counter_ns,
    seen: Seen = UNSEEN,
) -> Trained:
    """Trains `run` step by step; see `train` for the arguments.

    Args:
      compiled: The compiled training.
      num_steps: Total number of steps; None for all.
    """
    place, (key, x) = program.draft.placement, arguments
    return training.train(
        compiled,
        initial,
        saved=program.draft.train_state,
        teacher=_teacher(run, program, x),
        key=key,
        batch=lambda step: place.put_x(inputs.make_batch(run.input, run.input_shape, step)),
        num_steps=run.train.steps if num_steps is None else num_steps,
        clock=clock,
        watch=seen.watch,
        steps=seen.steps,
    )


def make_member(run: Run, program: Program, initial: Any, arguments: Arguments, *, seen: Seen = UNSEEN) -> Member:
    """`run` as a member of a population; see `train` for the arguments."""
    assert program.training is not None
    key, x = arguments
    rate = run.train.learning_rate
    state = program.training.start(initial, rate)
    if program.draft.train_state is not None:
        state = with_saved(state, program.draft.train_state)
    first_step, curve = int(state.step), Curve()
    if seen.steps is not None and (last := seen.steps.last()) is not None:
        state = with_saved(program.training.start(filled_from(initial, last.variables), rate), last.state)
        curve = last.curve
        curve.resumed_at.append(last.num)
    return Member(
        initial=initial,
        state=jax.device_get(state),
        teacher=_kept(
            program, f"teacher {run.train.teacher_seed}", run, lambda: jax.device_get(_teacher(run, program, x))
        ),
        key=np.asarray(key),
        learning_rate=rate,
        input=run.input,
        first_step=first_step,
        curve=curve,
        watch=seen.watch,
        steps=seen.steps,
    )


def train_members(
    program: Program,
    members: Sequence[tuple[Run, Member]],
    *,
    num_steps: int | None = None,
    clock: Clock = time.perf_counter_ns,
) -> list[Trained | Exception]:
    """Trains members that are at the same step, and of which the first run's settings hold for all.

    Returns:
      For each its result, or why it has none.

    Raises:
      Stopped: Their `steps` ended it.
      StorageError: A step can't be written.
    """
    assert program.population is not None
    settings = members[0][0].train
    found = population.train(
        program.population,
        [member for _, member in members],
        num_steps=settings.steps if num_steps is None else num_steps,
        save_every=settings.save_every,
        clock=clock,
    )
    return [one if isinstance(one, Exception) else _placed(program, one) for one in found]


def loss_eval(run: Run, program: Program, variables: Any, arguments: Arguments) -> float:
    """The loss of `variables` on the evaluation batches, of which there is at least one; see `train`."""
    place, (key, x) = program.draft.placement, arguments
    batches = (inputs.make_eval_batch(run.input, run.input_shape, num) for num in range(run.train.eval_batches))
    return evaluation.mean_loss(
        lambda each, batch: program.apply(each, key, batch)[0],
        variables,
        _teacher(run, program, x),
        map(place.put_x, batches),
    )


def arguments_of(run: Run, program: Program) -> Arguments:
    """The root key and x of `run`, on its device."""
    place = program.draft.placement
    x = _kept(program, "x", run, lambda: place.put_x(inputs.make_input(run.input, run.input_shape)))
    return place.put(_root_key(np.uint32(run.seed))), x


# Compiled, as it is made for each of many runs.
_root_key = jax.jit(rngs.root_key)


def initial_of(program: Program, arguments: Arguments) -> Any:
    """The variables that a run starts from."""
    given = program.draft.given
    return program.init(*arguments) if given is None else program.draft.placement.put_variables(given)


def _teacher(run: Run, program: Program, x: jax.Array) -> Any:
    assert program.training is not None
    place, seed = program.draft.placement, run.train.teacher_seed
    return teacher.make_teacher(program.training.training, program.init(place.put(rngs.teacher_key(seed)), x), seed)


def _kept(program: Program, what: str, run: Run, make: Callable[[], Any]) -> Any:
    """What runs of one input share, made once: `what` says the rest that it depends on."""
    if program.population is None:
        return make()
    known, key = program.population.shared, f"{what} {population.as_text(run.input)}"
    if key not in known:
        if len(known) == MAX_SHARED:
            known.clear()
        known[key] = make()
    return known[key]


def _placed(program: Program, trained: Trained) -> Trained:
    return dataclasses.replace(trained, variables=program.draft.placement.put_variables(trained.variables))
