"""Several runs that train as one program: a step of all of them at once, in a loop that needs no Python between steps.

XLA chooses how to compute by the shapes that it sees, so a run's bits depend on how many runs the program has. They
must not depend on which: a program has one size, places without a run are filled with copies of the last one, and
nothing that a run has of its own, its input and its teacher included, is shared with another.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.bridge.tracing import jaxprs
from runner.config.settings.layer import InputSettings
from runner.errors import StorageError
from runner.experiment import inputs
from runner.experiment.train.curve import Curve, Steps, Stopped, Watch
from runner.experiment.train.train_state import TrainState
from runner.experiment.train.training import Trained, Training, saved_step, trained_to
from runner.records.timing import Phases
from runner.timing.clock import Clock, compile_traced, first_call

# Inputs of several steps are passed at once: at most this many steps, and about this many bytes.
MAX_STEPS = 256
MAX_BYTES = 16 * 2**20

# Steps whose inputs are drawn at once, and kept for the next runs.
DRAWN = 32

# The first call makes few steps, since nothing is known of their time; the next ones twice as many, until a call takes
# so long that Ctrl-C, or whoever follows the runs, would wait for it.
FIRST_STEPS = 32
SHORT_NS, LONG_NS = 2 * 10**8, 10**9

# Runs are followed while they train where a step is slow: all curves grow at once, and each costs its tracker time.
WATCH_EVERY_NS = 10**10
MAX_WATCHED = 1000


class Torn(Exception):
    """Copies of one run have different losses in one program: the layer mixes runs, or tells them apart."""


class Batches:
    """The inputs of training steps, drawn once for all runs that have the same."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], np.ndarray] = {}
        self._num_bytes = 0

    def draw(self, settings: InputSettings, x: jax.ShapeDtypeStruct, first: int, num: int) -> np.ndarray:
        """The inputs of `num` steps from `first` on, each as `x`."""
        num_drawn = min(DRAWN, max(1, MAX_BYTES // max(1, x.size * x.dtype.itemsize)))
        blocks = range(first // num_drawn, (first + num - 1) // num_drawn + 1)
        found = [self._block(settings, x.shape, block * num_drawn, num_drawn) for block in blocks]
        start = first - blocks[0] * num_drawn
        drawn: np.ndarray = np.concatenate(found)[start : start + num]
        return drawn

    def _block(self, settings: InputSettings, shape: Sequence[int], first: int, num: int) -> np.ndarray:
        key = as_text(settings), first
        if key not in self._kept:
            block = _drawn(settings, shape, first, num)
            while self._kept and self._num_bytes + block.nbytes > MAX_BYTES:
                self._num_bytes -= self._kept.pop(next(iter(self._kept))).nbytes
            self._kept[key] = block
            self._num_bytes += block.nbytes
        return self._kept[key]


def as_text(settings: InputSettings) -> str:
    """All of `settings`, to compare and to look up by."""
    return json.dumps(vars(settings), default=str, sort_keys=True)


def _drawn(settings: InputSettings, shape: Sequence[int], first: int, num: int) -> np.ndarray:
    if settings.kind not in inputs.RANDOM_KINDS:
        return np.stack([inputs.make_batch(settings, shape, first)] * num)
    return np.stack([inputs.make_batch(settings, shape, step) for step in range(first, first + num)])


@dataclass(frozen=True, kw_only=True)
class Population:
    """A program that trains several runs.

    Attributes:
      training: How one of them is trained.
      size: How many they are.
      length: How many steps a call makes at most.
      steps: Compiled `(states, teachers, keys, learning rates, inputs, number of steps) -> (states, losses)`; all but
        the last with the runs as an axis, the first one, and the second of the inputs and losses.
      phases: The cost of compiling it.
      x: Shape and dtype of the input of one run.
      loops: Whether a step has loops that may not end, as on NaN.
      batches: The inputs that were drawn.
      shared: What runs of one input share, by what it is made of.
    """

    training: Training
    size: int
    length: int
    steps: Any
    phases: Phases
    x: jax.ShapeDtypeStruct
    loops: bool
    batches: Batches = field(default_factory=Batches)
    shared: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Member:
    """A run to train with others; the arrays are NumPy's.

    Attributes:
      initial: The variables that it starts from.
      state: The state before its next step.
      teacher: Variables whose output is the target.
      key: Its root key.
      learning_rate: Its learning rate.
      input: The settings of its input.
      first_step: Number of its first step, in whichever attempt.
      curve: What was seen of it.
      watch: Receives the losses.
      steps: Where its steps are saved.
    """

    initial: Any
    state: TrainState
    teacher: Any
    key: np.ndarray
    learning_rate: float
    input: InputSettings
    first_step: int
    curve: Curve = field(default_factory=Curve)
    watch: Watch | None = None
    steps: Steps | None = None

    @property
    def step(self) -> int:
        """The number of its next step."""
        return int(self.state.step)


def compile_population(
    training: Training, variables: Any, teacher: Any, arguments: tuple[Any, Any], *, size: int
) -> Population:
    """Compiles `training` for `size` runs.

    Args:
      training: How one run is trained.
      variables: Shapes of its variables.
      teacher: Shapes of its teacher's.
      arguments: Shapes of its root key and x.
      size: How many runs.
    """
    key, x = arguments
    state = jax.eval_shape(training.start, variables)
    x_bytes = max(1, size * x.size * x.dtype.itemsize)
    length = min(MAX_STEPS, max(1, MAX_BYTES // x_bytes))
    states, teachers, keys = jax.tree.map(functools.partial(_with_axes, size), (state, teacher, key))
    # As weak as the Python number that it is alone: the updates of bfloat16 weights stay such.
    rates = jax.ShapeDtypeStruct((size,), jnp.float32, weak_type=True)
    step = jax.vmap(training.step)
    _, loss = jax.eval_shape(step, states, teachers, keys, _with_axes(size, x), rates)

    def steps(states: Any, teachers: Any, keys: Any, rates: Any, xs: Any, num: Any) -> Any:
        def body(index: Any, carried: Any) -> Any:
            states, losses = carried
            states, loss = step(states, teachers, keys, xs[index], rates)
            return states, losses.at[index].set(loss)

        # The number of steps is an argument, so that every call, of many steps or of one, runs the same code.
        return jax.lax.fori_loop(0, num, body, (states, jnp.zeros((length, size), loss.dtype)))

    shapes = (states, teachers, keys, rates, _with_axes(length, _with_axes(size, x)))
    compiled, phases, traced = compile_traced(steps, (*shapes, jax.ShapeDtypeStruct((), jnp.int32)))
    loops = jaxprs.number_of(traced.jaxpr, {"while"}) > 1  # one is ours
    return Population(training=training, size=size, length=length, steps=compiled, phases=phases, x=x, loops=loops)


def _with_axes(size: int, leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype)


def train(
    population: Population, members: Sequence[Member], *, num_steps: int, save_every: int, clock: Clock
) -> list[Trained | Exception]:
    """Trains `members` up to `num_steps` steps in total.

    Args:
      population: The compiled program.
      members: At most as many as it has places; all at the same step.
      num_steps: Total number of steps.
      save_every: Steps between two saves; 0 for none.
      clock: Nanoseconds from any fixed origin.

    Returns:
      For each member its result, or why it has none.

    Raises:
      Stopped: Their `steps` ended it; each has saved its last one.
      StorageError: A step can't be written.
      Torn: The layer mixes the runs.
    """
    chunk = Chunk(population, members)
    failed: dict[int, Exception] = {}
    count, told_at = FIRST_STEPS, clock()
    while chunk.step < num_steps:
        due = num_steps - chunk.step if not save_every else save_every - chunk.step % save_every
        began = clock()
        chunk.advance(min(count, due, num_steps - chunk.step), clock=clock)
        took = clock() - began
        count = count * 2 if took < SHORT_NS else max(1, count // 2) if took > LONG_NS else count
        if clock() - told_at >= WATCH_EVERY_NS:
            told_at = clock()
            chunk.tell()
        chunk.save(failed, is_last=chunk.step == num_steps)
    for member in members:
        if member.watch is not None:
            member.watch.end()
    return [failed.get(place) or chunk.trained(place) for place in range(len(members))]


class Chunk:
    """Runs that train as one program, between two calls of it.

    Args:
      population: The compiled program.
      members: At most as many as it has places; all at the same step.
    """

    def __init__(self, population: Population, members: Sequence[Member]) -> None:
        self._population = population
        self._members = members
        self._rows = [*members, *[members[-1]] * (population.size - len(members))]
        self._states: Any = stacked([row.state for row in self._rows])
        self._fixed = (
            stacked([row.teacher for row in self._rows]),
            np.stack([row.key for row in self._rows]),
            np.array([row.learning_rate for row in self._rows], np.float32),
        )
        self._host: Any = None
        self._told = 0
        self.step = members[0].step

    def advance(self, num: int, *, clock: Clock) -> None:
        """Makes `num` steps, or as many as fit into a call."""
        population = self._population
        num = min(num, population.length)
        xs = self._inputs(num)
        (states, losses), took_s = first_call(
            lambda: population.steps(self._states, *self._fixed, xs, np.int32(num)), clock=clock
        )
        self._states, self._host = states, None
        self.step += num
        found = np.asarray(losses)[:num]
        for place, member in enumerate(self._members):
            member.curve.losses.extend(found[:, place].tolist())
            member.curve.steps_s.extend([took_s / num] * num)
        copies = found[:, len(self._members) - 1 :]
        if any(copies[:, place].tobytes() != copies[:, 0].tobytes() for place in range(copies.shape[1])):
            raise Torn(f"step {self.step - num} to {self.step}: copies of one run have different losses")

    def state(self, place: int) -> TrainState:
        """The state of a run, with NumPy leaves."""
        if self._host is None:
            self._host = jax.device_get(self._states)
        # Not a view: what outlives the others must not keep them all.
        state: TrainState = jax.tree.map(lambda leaf: np.array(leaf[place]), self._host)
        return state

    def trained(self, place: int) -> Trained:
        """What a run has come to."""
        member = self._members[place]
        return trained_to(
            self.state(place),
            member.curve,
            self._population,
            before=member.initial,
            first_step=member.first_step,
        )

    def tell(self) -> None:
        """Tells the losses since the last time, if they are few."""
        num = len(self._members[0].curve.losses) - self._told
        if num > MAX_WATCHED:
            return
        for member in self._members:
            if member.watch is not None:
                first = len(member.curve.losses) - num
                member.watch.tell(member.first_step + first, member.curve.losses[first:])
        self._told += num

    def save(self, failed: dict[int, Exception], *, is_last: bool) -> None:
        """Lets each run save its step if it is due; one that can't is added to `failed`."""
        stopped: Stopped | None = None
        for place, member in enumerate(self._members):
            if member.steps is None or place in failed:
                continue
            make = functools.partial(self._saved, place)
            try:
                member.steps.made(self.step, is_last, make)
            except Stopped as error:
                stopped = error
            except StorageError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever keeps this run's step from being saved
                failed[place] = error
        if stopped is not None:
            raise stopped

    def _saved(self, place: int) -> Any:
        return saved_step(self.state(place), self._members[place].curve)

    def _inputs(self, num: int) -> np.ndarray:
        """The inputs of the next steps: the steps first, then the runs."""
        population = self._population
        x = population.x
        found = np.zeros((population.length, population.size, *x.shape), x.dtype)
        drawn: dict[int, np.ndarray] = {}
        for place, row in enumerate(self._rows):
            if id(row.input) not in drawn:
                drawn[id(row.input)] = population.batches.draw(row.input, x, self.step, num)
            found[:num, place] = drawn[id(row.input)]
        return found


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of arrays as one, with an axis for them in front."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)
