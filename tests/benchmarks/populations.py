"""Times runs that train together against bare JAX and against a loop over seeds, in one process, and prints a table.

    python tests/benchmarks/populations.py --seeds 64 --steps 500 --rounds 5

All three do the same training: `nnx.Linear` through `to_linen`, adam, the teacher's output as the target, a new input
at every step, from the same weights.

* **vmap**: what a JAX user writes for many seeds at once: one vmapped step, one `lax.scan` over all steps.
* **loop**: what one writes for one seed after the other: one `jax.jit` of a step, a Python loop, the losses as floats.
* **ours**: `runner`'s own training of a sweep with `train.together=16`: states, teachers and inputs of each run made
  and stacked, the loop over the steps, and each run's curve, variables and optimiser state taken apart again.

Compiling is not in these times, and neither is what a sweep does with each run afterwards. A round has all three in
turn; CPU seconds of the process, which others on the machine disturb less, and wall seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from runner.bridge import rngs
from runner.config.settings.run import Run
from runner.config.settings.train import TrainSettings
from runner.experiment import inputs, isolation, trained_run
from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.program import Program, compile_program
from runner.experiment.train import population

SIZE = 16
RATE = 0.01


def draws(run: Run) -> np.ndarray:
    """The inputs of all steps, as every side gets them."""
    return np.stack([inputs.make_batch(run.input, run.input_shape, step) for step in range(run.train.steps)])


def vmapped(run: Run, program: Program, num_seeds: int) -> Callable[[], Any]:
    """Trains all seeds as one program."""
    model, optimizer = program.draft.model.model, optax.adam(RATE)
    x = inputs.make_input(run.input, run.input_shape)
    teacher = model.init(rngs.teacher_key(1), x)

    def train(keys: jax.Array, xs: jax.Array) -> Any:
        params = jax.vmap(lambda key: model.init(key, x))(keys)

        def step(carried: Any, x: jax.Array) -> Any:
            def one(params: Any, state: Any) -> Any:
                target = model.apply(teacher, x)
                loss, grads = jax.value_and_grad(lambda params: ((model.apply(params, x) - target) ** 2).mean())(params)
                updates, state = optimizer.update(grads, state)
                return (optax.apply_updates(params, updates), state), loss

            return jax.vmap(one)(*carried)

        return jax.lax.scan(step, (params, jax.vmap(optimizer.init)(params)), xs)

    keys = jax.vmap(jax.random.PRNGKey)(jnp.arange(num_seeds))
    compiled = jax.jit(train).lower(keys, draws(run)).compile()
    return lambda: jax.device_get(compiled(keys, draws(run)))


def looped(run: Run, program: Program, num_seeds: int) -> Callable[[], Any]:
    """Trains one seed after the other, step by step."""
    model, optimizer = program.draft.model.model, optax.adam(RATE)
    x = inputs.make_input(run.input, run.input_shape)
    init, teacher = jax.jit(model.init), model.init(rngs.teacher_key(1), x)

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array) -> Any:
        target = model.apply(teacher, x)
        loss, grads = jax.value_and_grad(lambda params: ((model.apply(params, x) - target) ** 2).mean())(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    def train() -> Any:
        found = []
        for seed in range(num_seeds):
            params = init(jax.random.PRNGKey(seed), x)
            state, losses = optimizer.init(params), []
            for x_of_step in draws(run):
                params, state, loss = step(params, state, x_of_step)
                losses.append(loss)
            found.append((jax.device_get((params, state)), [float(loss) for loss in losses]))
        return found

    return train


def ours(run: Run, program: Program, num_seeds: int) -> Callable[[], Any]:
    """Trains all seeds as a sweep does, 16 at a time."""

    def train() -> Any:
        kept = population.Batches()  # nothing is left of the round before
        fresh = dataclasses.replace(program.population, batches=kept, shared={})
        this, found = dataclasses.replace(program, population=fresh), []
        for first in range(0, num_seeds, SIZE):
            members = []
            for seed in range(first, min(first + SIZE, num_seeds)):
                one = dataclasses.replace(run, seed=seed)
                arguments = trained_run.arguments_of(one, this)
                initial = trained_run.initial_of(this, arguments)
                members.append((one, trained_run.make_member(one, this, initial, arguments)))
            found += trained_run.train_members(this, members)
        return found

    return train


def timed(train: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    train()
    return time.process_time() - cpu_s, time.perf_counter() - wall_s


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 64])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    run = Run(train=TrainSettings(steps=options.steps, learning_rate=RATE, together=str(SIZE)))
    draft = make_draft(run, identity_of(run))
    several, together = isolation.compiled(draft)
    program = dataclasses.replace(compile_program(draft), population=several, together=together)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; ms of CPU a seed (wall), medians\n")
    print("| seeds × steps | vmap | loop | ours | ours / vmap | loop / ours |\n|---|---|---|---|---|---|")
    for num_seeds in options.seeds:
        sides = {make.__name__: make(run, program, num_seeds) for make in (vmapped, looped, ours)}
        for train in sides.values():
            train()
        rounds = [{name: timed(train) for name, train in sides.items()} for _ in range(options.rounds)]

        def median(number: Callable[[dict[str, tuple[float, float]]], float], of: Any = rounds) -> float:
            return statistics.median(number(one) for one in of)

        cells = [f"{num_seeds} × {options.steps}"]
        for name in sides:
            cpu_s, wall_s = (median(lambda one, k=kind, n=name: one[n][k]) for kind in (0, 1))
            cells.append(f"{1e3 * cpu_s / num_seeds:.2f} ({1e3 * wall_s / num_seeds:.2f})")
        cells.append(f"{median(lambda one: one['ours'][0] / one['vmapped'][0]):.1f}")
        cells.append(f"{median(lambda one: one['looped'][0] / one['ours'][0]):.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
