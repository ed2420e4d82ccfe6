"""A few optimiser steps as in a Linen pipeline: optax, towards the output of a teacher."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from runner.arrays import trees
from runner.bridge.rngs import apply_keys
from runner.bridge.wrap import Bridged
from runner.config.settings.train import TrainSettings
from runner.errors import ConfigError, LayerError, nearest
from runner.experiment.train.curve import Curve, Step, Steps, Watch
from runner.experiment.train.optimizers import descending, make_optimizer, rated
from runner.experiment.train.train_state import (
    TrainState,
    carried_over,
    filled_from,
    kept_arrays,
    leaves_by_name,
    not_moved,
    plain_tree,
    to_tree,
    with_saved,
)
from runner.records.record import TrainInfo
from runner.records.timing import Phases
from runner.timing.clock import Clock, compile_phases, first_call

# Rare enough to cost training nothing, frequent enough to follow.
WATCH_EVERY_NS = 10**9


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained.

    Attributes:
      model: The model to train.
      rngs: Streams passed to apply.
      mutable: Collections that apply may change; the changed ones go into the next step.
      collections: Collections that the optimiser updates.
      optimizer: Turns gradients into updates.
      optimizer_name: Its name.
      learning_rate: Its learning rate.
    """

    model: Bridged
    rngs: tuple[str, ...]
    mutable: tuple[str, ...]
    collections: tuple[str, ...]
    optimizer: optax.GradientTransformation
    optimizer_name: str
    learning_rate: float

    def at_rate(self, learning_rate: float) -> Training:
        """The same training with another learning rate."""
        optimizer = make_optimizer(self.optimizer_name, learning_rate)
        return dataclasses.replace(self, optimizer=optimizer, learning_rate=learning_rate)

    def start(self, variables: Mapping[str, Any], learning_rate: Any = None) -> TrainState:
        """The state before step 0; `learning_rate` as of `step`, since some optimisers keep it (`optax.rprop`)."""
        optimizer = self._at(learning_rate)
        others = {name: value for name, value in variables.items() if name not in self.collections}
        trained = {name: value for name, value in variables.items() if name in self.collections}
        state = TrainState.create(apply_fn=self.model.model.apply, params=trained, tx=optimizer, others=others)
        return state.replace(step=jnp.zeros((), jnp.int32), tx=self.optimizer)

    def step(
        self, state: TrainState, teacher: Any, key: jax.Array, x: jax.Array, learning_rate: Any = None
    ) -> tuple[TrainState, jax.Array]:
        """Makes one step; returns the state after it and the loss before it.

        Args:
          state: The state.
          teacher: Variables whose output is the target.
          key: The root key of the run.
          x: The input.
          learning_rate: Traced, in place of the optimiser's own.
        """
        keys = apply_keys(jax.random.fold_in(key, state.step), self.rngs)
        target, _ = self.model.apply(teacher, keys, self.mutable, x)

        def loss_of(trained: Any) -> tuple[jax.Array, Any]:
            output, updated = self.model.apply({**state.others, **trained}, keys, self.mutable, x)
            return mean_squared_difference(output, target), updated

        (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        others = {name: carried_over(value, updated.get(name)) for name, value in state.others.items()}
        after = state.replace(tx=self._at(learning_rate)).apply_gradients(grads=descending(gradients), others=others)
        return after.replace(tx=state.tx), loss

    def _at(self, learning_rate: Any) -> optax.GradientTransformation:
        return self.optimizer if learning_rate is None else rated(self.optimizer_name, learning_rate)


@dataclass(frozen=True, kw_only=True)
class CompiledTraining:
    """A `Training` with compiled functions.

    Attributes:
      training: What was compiled.
      start: Compiled `(variables, learning rate) -> state`.
      step: Compiled `(state, teacher, key, x) -> (state, loss)`.
      phases: The cost of compiling `step`.
    """

    training: Training
    start: Any
    step: Any
    phases: Phases


class HasTraining(Protocol):
    """A compiled training, of one run or of several."""

    @property
    def training(self) -> Training:
        """What was compiled."""

    @property
    def phases(self) -> Phases:
        """The cost of compiling a step."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of training: the variables, the state to resume from as a plain tree, and the record's entry.

    `share_s` is the run's part of the seconds in which it was trained with others; None if it trained by itself.
    """

    variables: Any
    state: Any
    info: TrainInfo
    share_s: float | None = None


def make_training(
    model: Bridged,
    settings: TrainSettings,
    variables: Any,
    output: Any,
    *,
    rngs: tuple[str, ...],
    mutable: tuple[str, ...],
    label: str,
) -> Training:
    """Sets up the training of `model` according to `settings`; computes nothing.

    Args:
      model: The model to train.
      settings: Optimiser and collections.
      variables: Shapes and dtypes of the variables.
      output: Shapes and dtypes of the output.
      rngs: Streams passed to apply.
      mutable: Collections that apply may change.
      label: The model's name in error messages.

    Raises:
      ConfigError: An unknown optimiser, or a collection that can't be trained.
      LayerError: An output without floating-point values.
    """
    key = "train.collections"
    collections = settings.trained(variables)
    for name in collections:
        if name not in variables:
            found = list(variables)
            reason = f"layer {label} has {', '.join(found) or 'no variables at all'}"
            meant = [nearest(other, found) or other for other in settings.collections]
            known = [other for other in dict.fromkeys(meant) if other in found] or found[:1]
            suggestion = f"'{key}=[{','.join(known)}]'" if found else "train=none"
            raise ConfigError(key, settings.collections, reason, suggestion)
        for path, leaf in trees.flatten(trees.unbox(variables[name])):
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                reason = f"{name}/{'/'.join(map(str, path))} is {leaf.dtype}, and gradients are of floating numbers"
                others = [other for other in collections if other != name]
                attribute = ".".join(map(str, path))
                keep = f"self.{attribute} = nnx.Variable(…) in the layer, if it is a constant"
                raise ConfigError(
                    key, settings.collections, reason, f"'{key}=[{','.join(others)}]'" if others else keep
                )
    if not any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(output)):
        raise LayerError(f"layer {label} has no floating output, and so no loss", "train=none")
    return Training(
        model=model,
        rngs=rngs,
        mutable=mutable,
        collections=collections,
        optimizer=make_optimizer(settings.optimizer, settings.learning_rate),
        optimizer_name=settings.optimizer,
        learning_rate=settings.learning_rate,
    )


def compile_training(training: Training, variables: Any, teacher: Any, arguments: tuple[Any, Any]) -> CompiledTraining:
    """Compiles `training` for the shapes and placement of its arguments.

    Args:
      training: The training to compile.
      variables: The variables to train.
      teacher: Variables whose output is the target.
      arguments: The root key and x.
    """
    rate = jax.ShapeDtypeStruct((), jnp.float32, weak_type=True)  # passed as a Python number
    start, _ = compile_phases(training.start, (variables, rate))
    state = jax.eval_shape(training.start, variables, rate)
    placed = None
    if any(leaf.sharding is not None for leaf in jax.tree.leaves(variables)):
        # On a mesh, the compiled start determines the sharding of the state, and a step must preserve it.
        placed = start.output_shardings, None
        state = jax.tree.map(
            lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), state, placed[0]
        )
    step, phases = compile_phases(training.step, (state, teacher, *arguments), out_shardings=placed)
    return CompiledTraining(training=training, start=start, step=step, phases=phases)


def train(
    compiled: CompiledTraining,
    variables: Any,
    *,
    saved: Any,
    teacher: Any,
    key: jax.Array,
    batch: Callable[[int], jax.Array],
    num_steps: int,
    clock: Clock,
    watch: Watch | None = None,
    steps: Steps | None = None,
) -> Trained:
    """Trains up to `num_steps` steps in total.

    Args:
      compiled: The compiled training.
      variables: Variables to start from.
      saved: The state that another run left (`Trained.state`): its steps count. None starts at step 0.
      teacher: Variables whose output is the target.
      key: The root key of the run.
      batch: Returns the input of a step, given its number.
      num_steps: Total number of steps.
      clock: Nanoseconds from any fixed origin.
      watch: Receives the losses about once a second, between steps and outside their timing.
      steps: Where steps are saved during training and found again after a kill; None saves none.

    Raises:
      Stopped: `steps` ended it.
    """
    rate = compiled.training.learning_rate
    state = compiled.start(variables, rate)
    if saved is not None:
        state = with_saved(state, saved)
    first_step, curve = int(state.step), Curve()
    if steps is not None and (last := steps.last()) is not None:
        state, curve = with_saved(compiled.start(filled_from(variables, last.variables), rate), last.state), last.curve
        curve.resumed_at.append(last.num)
    told, told_at = 0, clock()
    for num in range(int(state.step), num_steps):
        x = batch(num)
        call = functools.partial(compiled.step, state, teacher, key, x)
        (state, loss), step_s = first_call(call, clock=clock)
        curve.losses.append(float(loss))
        curve.steps_s.append(step_s)
        if watch is not None and clock() - told_at >= WATCH_EVERY_NS:
            watch.tell(first_step + told, curve.losses[told:])
            told, told_at = len(curve.losses), clock()
        if steps is not None:
            steps.made(num + 1, num + 1 == num_steps, functools.partial(saved_step, state, curve))
    if watch is not None:
        watch.end()
    return trained_to(state, curve, compiled, before=variables, first_step=first_step)


def trained_to(state: TrainState, curve: Curve, compiled: HasTraining, *, before: Any, first_step: int) -> Trained:
    """What training has come to.

    Args:
      state: The state after the last step.
      curve: What was seen of it.
      compiled: What trained.
      before: The variables that it started from.
      first_step: Number of its first step.
    """
    trained = {**state.others, **state.params}
    info = TrainInfo(
        first_step=first_step,
        step=dataclasses.replace(compiled.phases, first_call_s=curve.steps_s[0]),
        not_moved=not_moved(before, trained, besides=compiled.training.mutable),
        **vars(curve),
    )
    return Trained(variables={name: trained[name] for name in before}, state=to_tree(state), info=info)


def saved_step(state: TrainState, curve: Curve) -> Step:
    """The step to save from a state."""
    variables = plain_tree(trees.to_host({**state.others, **state.params}))
    return Step(
        num=int(state.step), variables=variables, state=plain_tree(trees.to_host(kept_arrays(state))), curve=curve
    )


def mean_squared_difference(output: Any, target: Any) -> jax.Array:
    """Mean squared difference over all elements of the floating and complex arrays of `output`, in at least float32."""
    pairs = zip(jax.tree.leaves(output), jax.tree.leaves(target), strict=True)
    wide = [
        (jnp.asarray(one).astype(jnp.promote_types(jnp.result_type(one), jnp.float32)), two)
        for one, two in pairs
        if jnp.issubdtype(jnp.result_type(one), jnp.inexact)
    ]
    total = sum(jnp.sum(_squared(one - two)) for one, two in wide)
    return jnp.asarray(total) / sum(one.size for one, _ in wide)


def _squared(difference: jax.Array) -> jax.Array:
    """The squared absolute value; that of `jnp.abs` has no gradient at zero."""
    return difference.real**2 + difference.imag**2 if jnp.iscomplexobj(difference) else difference**2


def require_saved(training: Training, variables: Any, saved: Any, path: str) -> None:
    """Validates that training can resume from `saved`; computes nothing.

    Args:
      training: How the model is trained.
      variables: Shapes and dtypes of the variables.
      saved: The state that `to_tree` saved.
      path: Where it was found.

    Raises:
      ConfigError: It belongs to another layer, other collections or another optimiser.
    """
    wanted, found = leaves_by_name(kept_arrays(jax.eval_shape(training.start, variables))), leaves_by_name(saved)
    kinds = [{name: (np.shape(leaf), np.dtype(leaf.dtype)) for name, leaf in tree.items()} for tree in (wanted, found)]
    differing = sorted(name for name, _ in kinds[0].items() ^ kinds[1].items())
    if differing:
        reason = f"that run trained another layer, other collections or by another optimiser, as {differing[0]} shows"
        raise ConfigError(
            "variables", path, f"{reason}; its checkpoint alone starts again", f"variables={path}/checkpoint"
        )
