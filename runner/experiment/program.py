"""A program: the compiled init and apply of one layer for one input shape and device or mesh, shared by all seeds."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from runner.arrays import trees
from runner.bridge.rngs import apply_keys, key_shape
from runner.experiment.draft import Draft
from runner.experiment.train import population as experiment_population
from runner.experiment.train import training as experiment_training
from runner.experiment.train.population import Population
from runner.experiment.train.training import CompiledTraining, Training
from runner.records.record import Check, Together
from runner.records.timing import Phases
from runner.timing import clock


@dataclass(frozen=True, kw_only=True)
class Program:
    """A compiled program.

    Attributes:
      init: Compiled `(key, x) -> variables`.
      apply: Compiled `(variables, key, x) -> (output, updated collections)`.
      init_phases: The cost of compiling init.
      apply_phases: The cost of compiling apply.
      init_traced: The trace of init that was compiled; None once the checks have read it.
      apply_traced: The trace of apply, the same way.
      training: Compiled training; None if nothing is trained.
      checks: The results of the program's checks, the same for all its runs.
      population: The compiled training of several runs as one; None if each trains alone.
      together: What the record says of that, but for the runs; None if each was to train alone.
    """

    draft: Draft
    init: Any
    apply: Any
    init_phases: Phases
    apply_phases: Phases
    init_traced: jax.stages.Traced | None = None
    apply_traced: jax.stages.Traced | None = None
    training: CompiledTraining | None = None
    checks: tuple[Check, ...] = ()
    population: Population | None = None
    together: Together | None = None

    @property
    def result_bytes(self) -> int:
        """Bytes of one run's result: the variables, the output, and the optimiser state if it is trained."""
        draft = self.draft
        return draft.variables_bytes + draft.output_bytes + draft.optimizer_bytes


def compile_program(drafted: Draft, *, contended: bool = False) -> Program:
    """Compiles `drafted`; may be called from any thread.

    Args:
      drafted: The program to compile.
      contended: Whether other work of this program runs concurrently; noted in the phases.
    """
    place, needs = drafted.placement, drafted.needs
    key, x = _arguments(drafted)

    def init(key: jax.Array, x: jax.Array) -> Any:
        return drafted.model.init(key, drafted.init_streams, x)

    with place.context():
        placed = place.shardings(needs.variables)
        init_compiled, init_phases, init_traced = clock.compile_traced(init, (key, x), out_shardings=placed)
        arguments = (place.shapes(drafted.variables), key, x)
        apply_compiled, apply_phases, apply_traced = clock.compile_traced(_apply(drafted), arguments)
        compiled = None
        if drafted.training is not None:
            compiled = compile_training(drafted, drafted.training)
            phases = dataclasses.replace(compiled.phases, contended=contended)
            compiled = dataclasses.replace(compiled, phases=phases)
    return Program(
        draft=drafted,
        init=init_compiled,
        apply=apply_compiled,
        init_phases=dataclasses.replace(init_phases, contended=contended),
        apply_phases=dataclasses.replace(apply_phases, contended=contended),
        init_traced=init_traced,
        apply_traced=apply_traced,
        training=compiled,
    )


def compile_training(drafted: Draft, how: Training) -> CompiledTraining:
    """Compiles `how` for the variables and input of `drafted`, with their placement."""
    place = drafted.placement
    variables, teacher = place.shapes(drafted.variables), place.shapes(drafted.needs.variables)
    with place.context():
        return experiment_training.compile_training(how, variables, teacher, _arguments(drafted))


def compile_population(drafted: Draft, how: Training) -> Population:
    """Compiles `how` for as many runs of `drafted` as are to train as one."""
    place = drafted.placement
    with place.context():
        return experiment_population.compile_population(
            how, drafted.variables, drafted.needs.variables, _arguments(drafted), size=drafted.together
        )


def compile_apply(drafted: Draft, *, precision: str | None = None) -> Any:
    """Compiles apply alone, as in `compile_program`: `(variables, key, x) -> (output, updated collections)`.

    It takes variables without metadata boxes, as in a checkpoint.

    Args:
      drafted: The program to compile.
      precision: Matmul precision, as in `jax.default_matmul_precision`; None keeps JAX's setting.
    """
    variables = drafted.placement.shapes(trees.unbox(drafted.variables))
    precise = contextlib.nullcontext() if precision is None else jax.default_matmul_precision(precision)
    with drafted.placement.context(), precise:
        compiled, _ = clock.compile_phases(_apply(drafted), (variables, *_arguments(drafted)))
    return compiled


def _arguments(drafted: Draft) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes of the root key and x, as passed to init and apply."""
    place = drafted.placement
    return place.shape(key_shape()), place.shape(drafted.x, x=True)


def _apply(drafted: Draft) -> Callable[..., Any]:
    def apply(variables: Any, key: jax.Array, x: jax.Array) -> Any:
        return drafted.model.apply(variables, apply_keys(key, drafted.rngs), drafted.mutable, x)

    return apply
