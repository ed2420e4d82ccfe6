"""A few optimiser steps as a Linen pipeline makes them: flax's TrainState, optax, and a teacher to learn from.

The teacher is the same model with other weights (where init makes one number of all of them, as in a norm, with noise
on it), and the loss is the mean squared difference of the two outputs, so that every layer has something to learn that
it can learn. A step gets the root key folded with its number: the masks of
dropout differ from step to step, and the teacher has the student's.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state

from runner.arrays import trees
from runner.bridge import wrap
from runner.bridge.wrap import Bridged
from runner.config.train_settings import TrainSettings
from runner.errors import ConfigError, LayerError, nearest
from runner.records.record import TrainInfo
from runner.records.timing import Phases
from runner.timing.clock import Clock, compile_phases, first_call

# What a saved step has beside the variables.
STATE_KEYS = ("step", "opt_state")

# They want the loss as a function, or a key of their own, or have a successor.
OTHER_OPTIMIZERS = frozenset({"lbfgs", "noisy_sgd", "optimistic_adam"})

# Seldom enough to cost a training nothing, often enough to look at.
WATCH_EVERY_NS = 10**9


# Of the noise on a teacher's leaves that are constants at init.
TEACHER_NOISE = 0.1


class TrainState(train_state.TrainState):
    """flax's, its params being the collections that are trained, with the other collections beside them."""

    others: Any


class Watch(Protocol):
    """Who looks on while a run trains."""

    def tell(self, first_step: int, losses: Sequence[float]) -> None:
        """Takes the losses of the steps from `first_step` on."""

    def end(self) -> None:
        """The run trains no more, and is timed next."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained.

    Attributes:
      model: What is trained.
      rngs: Streams that apply is given.
      mutable: Collections that apply may change; the changed ones go into the next step.
      collections: Collections given to the optimiser.
      optimizer: What makes updates of gradients.
    """

    model: Bridged
    rngs: tuple[str, ...]
    mutable: tuple[str, ...]
    collections: tuple[str, ...]
    optimizer: optax.GradientTransformation

    def start(self, variables: Mapping[str, Any]) -> TrainState:
        """The state before step 0."""
        others = {name: value for name, value in variables.items() if name not in self.collections}
        trained = {name: value for name, value in variables.items() if name in self.collections}
        state = TrainState.create(apply_fn=self.model.model.apply, params=trained, tx=self.optimizer, others=others)
        return state.replace(step=jnp.zeros((), jnp.int32))

    def step(self, state: TrainState, teacher: Any, key: jax.Array, x: jax.Array) -> tuple[TrainState, jax.Array]:
        """The state after one step, and the loss before it.

        Args:
          state: The state.
          teacher: Variables whose output is to be learnt.
          key: The root key of the run.
          x: Input.
        """
        keys = wrap.apply_keys(jax.random.fold_in(key, state.step), self.rngs)
        target, _ = self.model.apply(teacher, keys, self.mutable, x)

        def loss_of(trained: Any) -> tuple[jax.Array, Any]:
            output, updated = self.model.apply({**state.others, **trained}, keys, self.mutable, x)
            return mean_squared_difference(output, target), updated

        (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        others = {name: _carried(value, updated.get(name)) for name, value in state.others.items()}
        return state.apply_gradients(grads=gradients, others=others), loss


@dataclass(frozen=True, kw_only=True)
class CompiledTraining:
    """A training whose functions are compiled.

    Attributes:
      training: What was compiled.
      start: Compiled `variables -> state`.
      step: Compiled `(state, teacher, key, x) -> (state, loss)`.
      phases: What compiling `step` cost.
    """

    training: Training
    start: Any
    step: Any
    phases: Phases


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training leaves: the variables, the state to go on from as a plain tree, and what the record says."""

    variables: Any
    state: Any
    info: TrainInfo


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What training has told so far.

    Attributes:
      losses: The loss before each step.
      steps_s: Seconds a step.
      resumed_at: Steps at which it went on after an attempt that was stopped.
      remarks: What is to be known of that, one sentence each.
    """

    losses: list[float] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training run after `num` steps: all that it takes to go on. NumPy leaves in nested dicts."""

    num: int
    variables: Any
    state: Any
    curve: Curve


class Steps(Protocol):
    """Where the steps of a run are kept while it trains; see `runner.steps`."""

    def last(self) -> Step | None:
        """The step to go on from."""

    def made(self, num: int, is_last: bool, make: Callable[[], Step]) -> None:
        """Keeps step `num`, if it is its turn.

        Raises:
          Stopped: The run is to end here.
        """


class Stopped(Exception):
    """A training run was asked to end, and has kept its last step."""


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
    """How `model` is trained as `settings` say; nothing is computed.

    Args:
      model: What is trained.
      settings: Optimiser and collections.
      variables: Shapes and dtypes of the variables.
      output: Shapes and dtypes of the output.
      rngs: Streams that apply is given.
      mutable: Collections that apply may change.
      label: What the model is called in an error.

    Raises:
      ConfigError: An unknown optimiser, or a collection that can't be trained.
      LayerError: An output that has no floating number.
    """
    key = "train.collections"
    for name in settings.collections:
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
                raise ConfigError(key, settings.collections, reason, f"'{key}=[params]'")
    if not any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(output)):
        raise LayerError(f"layer {label} has no floating output, and so no loss", "train=none")
    return Training(
        model=model,
        rngs=rngs,
        mutable=mutable,
        collections=tuple(settings.collections),
        optimizer=make_optimizer(settings.optimizer, settings.learning_rate),
    )


@functools.cache
def make_optimizer(name: str, learning_rate: float) -> optax.GradientTransformation:
    """The optimiser of optax called `name`.

    Raises:
      ConfigError: There is none that takes a learning rate alone.
    """
    known = optimizer_names()
    if name not in known:
        close = nearest(name, known) or "adam"
        reason = "no such function in optax that takes a learning rate and gradients alone"
        raise ConfigError("train.optimizer", name, reason, f"train.optimizer={close}")
    optimizer = getattr(optax, name)(learning_rate=learning_rate)
    assert isinstance(optimizer, optax.GradientTransformation)
    return optimizer


def optimizer_names() -> list[str]:
    """Optimisers of optax that can be made of a learning rate and called with gradients."""
    functions = {name: item for name, item in vars(optax).items() if inspect.isfunction(item)}
    return sorted(
        name
        for name, function in functions.items()
        if "learning_rate" in inspect.signature(function).parameters
        and not name.startswith(("_", "scale_by_"))
        and name not in OTHER_OPTIMIZERS
    )


def compile_training(training: Training, variables: Any, teacher: Any, arguments: tuple[Any, Any]) -> CompiledTraining:
    """`training`, compiled for the shapes of what it will get, and for where that lies.

    Args:
      training: What is compiled.
      variables: What is trained.
      teacher: Variables whose output is to be learnt.
      arguments: The root key and x.
    """
    start, _ = compile_phases(training.start, (variables,))
    state = jax.eval_shape(training.start, variables)
    placed = None
    if any(leaf.sharding is not None for leaf in jax.tree.leaves(variables)):
        # On a mesh the state lies as the compiled start puts it, and has to come out of a step as it went in.
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
    """Trains until `num_steps` steps are made.

    Args:
      compiled: The compiled training.
      variables: Variables to start from.
      saved: The state that another run left (`Trained.state`): its steps count. None starts at step 0.
      teacher: Variables whose output is to be learnt.
      key: The root key of the run.
      batch: The input of a step, given its number.
      num_steps: Steps in all.
      clock: Nanoseconds from any fixed origin.
      watch: Told of the losses about once a second, between two steps and in neither's time.
      steps: Where steps are kept while it trains, and found again after a kill; None keeps none.

    Raises:
      Stopped: `steps` ended it.
    """
    state = compiled.start(variables)
    if saved is not None:
        state = with_saved(state, saved)
    first_step, curve = int(state.step), Curve()
    if steps is not None and (last := steps.last()) is not None:
        state, curve = with_saved(compiled.start(_filled(variables, last.variables)), last.state), last.curve
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
            steps.made(num + 1, num + 1 == num_steps, functools.partial(_step, state, curve))
    if watch is not None:
        watch.end()
    trained = {**state.others, **state.params}
    info = TrainInfo(
        first_step=first_step,
        step=dataclasses.replace(compiled.phases, first_call_s=curve.steps_s[0]),
        not_moved=not_moved(variables, trained, besides=compiled.training.mutable),
        **vars(curve),
    )
    return Trained(variables={name: trained[name] for name in variables}, state=to_tree(state), info=info)


def make_teacher(training: Training, variables: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """`variables` of init with noise on what would be the student's too: trained leaves that are one number throughout.

    Args:
      training: How the model is trained.
      variables: What init made with the teacher's key.
      seed: The teacher's.
    """
    generator = np.random.default_rng(seed)

    def moved(leaf: jax.Array) -> jax.Array:
        if not leaf.size or not jnp.issubdtype(leaf.dtype, jnp.floating) or (number := _constant(leaf)) is None:
            return leaf
        noise = TEACHER_NOISE * generator.standard_normal(leaf.shape)
        values = (number + noise).astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])

    return {
        name: jax.tree.map(moved, tree) if name in training.collections else tree for name, tree in variables.items()
    }


def _constant(leaf: jax.Array) -> np.ndarray | None:
    """The number that a leaf is throughout; None where it has several."""
    # Of a leaf that is cut over processes none has it all, and together they ask the devices.
    values = np.asarray(leaf) if leaf.is_fully_addressable else leaf
    first = values.reshape(-1)[0]
    return np.asarray(first) if bool((values == first).all()) else None


def _step(state: TrainState, curve: Curve) -> Step:
    """What is kept of a state."""
    variables = _plain(trees.to_host({**state.others, **state.params}))
    return Step(num=int(state.step), variables=variables, state=_plain(trees.to_host(_kept(state))), curve=curve)


def mean_squared_difference(output: Any, target: Any) -> jax.Array:
    """The mean over all elements of the floating arrays of `output`, in float32 at least."""
    pairs = zip(jax.tree.leaves(output), jax.tree.leaves(target), strict=True)
    wide = [
        (one.astype(jnp.promote_types(one.dtype, jnp.float32)), two)
        for one, two in pairs
        if jnp.issubdtype(one.dtype, jnp.floating)
    ]
    total = sum(jnp.sum((one - two) ** 2) for one, two in wide)
    return jnp.asarray(total) / sum(one.size for one, _ in wide)


def not_moved(before: Any, after: Any, *, besides: tuple[str, ...] = ()) -> list[str]:
    """Paths of the floating leaves with the same bits before and after; collections in `besides` are not looked at."""
    later = trees.named_arrays(trees.unbox(after))
    return [
        path
        for path, array in trees.named_arrays(trees.unbox(before)).items()
        if path.split("/")[0] not in besides
        and jnp.issubdtype(array.dtype, jnp.inexact)
        and trees.array_digest(array) == trees.array_digest(later[path])
    ]


def to_tree(state: TrainState) -> dict[str, Any]:
    """The step and the optimiser's state, as a checkpoint keeps them: nested dicts of arrays (see `trees.to_save`)."""
    return _plain(trees.to_save(_kept(state)))


def _plain(tree: Any) -> dict[str, Any]:
    """`tree` as nested dicts, every key a text, as a checkpoint gives it back."""
    plain = trees.nest((tuple(map(str, path)), leaf) for path, leaf in trees.flatten(tree))
    assert isinstance(plain, dict)
    return plain


def require_saved(training: Training, variables: Any, saved: Any, path: str) -> None:
    """Judges whether training can go on from `saved`; nothing is computed.

    Args:
      training: How the model is trained.
      variables: Shapes and dtypes of the variables.
      saved: What `to_tree` kept.
      path: Where it was found.

    Raises:
      ConfigError: It is of another layer, other collections or another optimiser.
    """
    wanted, found = _named(_kept(jax.eval_shape(training.start, variables))), _named(saved)
    kinds = [{name: (np.shape(leaf), np.dtype(leaf.dtype)) for name, leaf in tree.items()} for tree in (wanted, found)]
    differing = sorted(name for name, _ in kinds[0].items() ^ kinds[1].items())
    if differing:
        reason = f"that run trained another layer, other collections or by another optimiser, as {differing[0]} shows"
        raise ConfigError(
            "variables", path, f"{reason}; its checkpoint alone starts anew", f"variables={path}/checkpoint"
        )


def with_saved(state: TrainState, saved: Any) -> TrainState:
    """`state` with the step and the optimiser's state that `to_tree` kept; see `require_saved`."""
    filled = _filled(_kept(state), saved)
    return state.replace(step=filled["step"], opt_state=filled["opt_state"])


def _filled(like: Any, saved: Any) -> Any:
    """The leaves of `saved` in the structure of `like`."""
    # Boxes of metadata are not kept: the leaves come in the same order with and without them.
    found = _named(saved)
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in _named(like)])


def _named(tree: Any) -> dict[str, Any]:
    return {"/".join(map(str, path)): leaf for path, leaf in trees.flatten(trees.unbox(tree))}


def _kept(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def _carried(before: Any, after: Any) -> Any:
    """What the next step gets of a collection: as apply left it, unless it has become another tree (values sown)."""
    plain, updated = trees.unbox(before), trees.unbox(after)
    if after is None or [path for path, _ in trees.flatten(plain)] != [path for path, _ in trees.flatten(updated)]:
        return before
    # Weights from a checkpoint have no boxes, what the bridge gives back has.
    return jax.tree.unflatten(jax.tree.structure(before), jax.tree.leaves(updated))
